"""A workflow in a process of its own: `workflow_script.py FILE FOLDER VARIABLES` leaves what it predicted in FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qlib_crypto.settings import Settings
from qlib_crypto.workflow.load import load_run
from qlib_crypto.workflow.run import run

workflow, folder, variables = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
settings = Settings(
    provider_dir=folder / "qlib_data", reports_dir=folder / "reports", tracking_uri=f"sqlite:///{folder / 'runs.db'}"
)
result = run(workflow, variables=variables, settings=settings, progress=print)
stored = load_run(result.name, result.run_id, tracking_uri=settings.tracking_uri)
stored.pred.join(stored.label).to_pickle(folder / "pred.pkl")
(folder / "metrics.json").write_text(json.dumps(stored.metrics))

"""Running a workflow, and loading what it stored."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

# gym prints four lines about its own retirement, Qlib one for each optional model that is not installed
with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
    import gym as _gym  # noqa: F401 - imported for its silence later
    import qlib.contrib.model as _models  # noqa: F401 - as above

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qlib_crypto.workflow.metrics import batched_metrics


class Recorder:
    """Counts requests, and would store one number each without the batch."""

    id = "run"

    def __init__(self):
        self.batches = []
        self.single = []
        self.client = SimpleNamespace(log_batch=lambda run, metrics: self.batches.append((run, metrics)))

    def log_metrics(self, step=None, **values):
        self.single.append((step, values))


def test_metrics_go_in_batches_that_mlflow_takes_with_their_steps():
    recorder = Recorder()
    with batched_metrics(recorder):
        for step in range(1100):
            recorder.log_metrics(step=step, **{"l2.valid": step / 7})
    assert recorder.single == []
    assert [len(metrics) for _, metrics in recorder.batches] == [1000, 100]
    stored = [(m.key, m.value, m.step) for _, metrics in recorder.batches for m in metrics]
    assert stored == [("l2.valid", step / 7, step) for step in range(1100)]
    recorder.log_metrics(IC=0.1)
    assert recorder.single == [(None, {"IC": 0.1})]


def test_what_was_logged_before_an_error_is_stored():
    recorder = Recorder()

    def interrupted():
        with batched_metrics(recorder):
            recorder.log_metrics(ic=0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(m.key, m.value, m.step) for m in recorder.batches[0][1]] == [("ic", 0.5, 0)]
    recorder.log_metrics(ic=0.6)
    assert len(recorder.single) == 1

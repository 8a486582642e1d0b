"""What a run learned about its features, for the report."""

from __future__ import annotations

from typing import Any

import pandas as pd
from qlib.contrib.model.gbdt import LGBModel
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.workflow.record_temp import RecordTemp

from qlib_crypto.features.handler import PerpAlpha158

IMPORTANCE, DROPPED, MISSING = "feature_importance.pkl", "dropped_features.pkl", "feature_missing.pkl"


class FeatureRecord(RecordTemp):
    """Saves what the model made of the features.

    `feature_importance.pkl` is a Series by feature name, the summed gain of LightGBM's splits, largest first (absent
    for another model); `dropped_features.pkl` a list of the features without a value in training;
    `feature_missing.pkl` a Series of each kept feature's share of unknown values in training, largest first.
    """

    def __init__(self, model: Any, dataset: DatasetH, recorder: Any = None) -> None:
        super().__init__(recorder=recorder)
        self.model = model
        self.dataset = dataset

    def generate(self, **_kwargs: Any) -> None:
        """Save the three objects with the recorder."""
        train = self.dataset.prepare("train", col_set="feature", data_key=DataHandlerLP.DK_L)
        handler = self.dataset.handler
        objects: dict[str, Any] = {
            DROPPED: handler.dropped_features if isinstance(handler, PerpAlpha158) else [],
            MISSING: train.isna().mean().rename("missing").sort_values(ascending=False, kind="stable"),
        }
        if isinstance(self.model, LGBModel):
            gain = self.model.model.feature_importance(importance_type="gain")
            named = pd.Series(gain, index=train.columns.astype(str), name="gain")
            objects[IMPORTANCE] = named.sort_values(ascending=False, kind="stable")
        self.save(**objects)

    def list(self) -> list[str]:
        """The names of the saved objects."""
        return [DROPPED, MISSING, *([IMPORTANCE] if isinstance(self.model, LGBModel) else [])]

"""How good it is, and which policy is the champion."""

from assets.factory import Described

GROUP = "scores"

ASSETS = (
    Described(
        "benchmark_scores",
        ("mujoco", "parquet", "mlflow"),
        """Scores with confidence intervals: distance error (metres) and direction score (of 3) on hand3d_test before and after
pretraining, wrist-trajectory error against a constant position, and simulator trials of the policy beside a random and
a mean-action policy. One row a trial. A few trials of one task are a smoke score and say so.""",
    ),
    Described(
        "champion",
        ("mlflow",),
        """The registry's verdict on the policy: registered, judged by mlflow/promotion.yaml (better than the baselines by a lower
confidence bound, no worse than the present champion) and promoted or refused. decision.json holds the reasons; the
check promotion_gate fails for a refused policy.""",
    ),
)

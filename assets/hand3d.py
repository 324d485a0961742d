"""Hand3D: what the vision-language model learns from (VIPA-VLA 3.2)."""

from assets.factory import Described

GROUP = "hand3d"

ASSETS = (
    Described(
        "hand3d_visual",
        ("parquet",),
        """Hand3D-visual: questions about space and their answers, from training videos; rows of held-out videos lie beside
them. One row a question: task (spatial relation, task completion, hand movement, camera movement), 1 to 4 frames,
answer text, the vector behind it (metres, last frame's camera axes), its direction (-1, 0, 1 an axis) and length.""",
    ),
    Described(
        "hand3d_action",
        ("parquet",),
        """Hand3D-action: wrist trajectories as motion tokens. One row an example of instructional generation, contextual
prediction or translation: conditioning frame, prompt, tokens (1024 bins an axis; x, y in [-0.5, 0.5] m, z in [0, 1] m),
waypoints in metres in that frame's camera axes. Motions below the displacement threshold are rejects.""",
    ),
    Described(
        "hand3d_test",
        ("parquet",),
        """Hand3D-test: question-answer rows from videos that no training row was made from, by name and by bytes (VIPA-VLA
4.4). Same columns as hand3d_visual, sampled over tasks and sources.""",
    ),
    Described(
        "hand3d_dataset",
        ("parquet", "webdataset", "huggingface"),
        """Hand3D to train on elsewhere: Parquet that Hugging Face `datasets` loads without a script, conversations for InternVL
and LLaVA, WebDataset tars, hand trajectories as LeRobot v3, a dataset card with licences and SHA256SUMS. quality.html puts the
paper's tables beside ours and draws rows on their frames. Frames whose licence forbids passing them on are left out.""",
    ),
)

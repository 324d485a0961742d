"""What is trained: base model, the two pretraining stages, demonstrations and the policy."""

from assets.factory import Described

GROUP = "training"

ASSETS = (
    Described(
        "base_model",
        ("pytorch", "safetensors"),
        """The vision-language model and the 3D encoder everything starts from: public InternVL3.5-2B and CUT3R weights, or, on
the embedded default, a tiny model of the same architecture trained on synthetic scenes. It knows words and answer
formats, but no 3D fact: what the stages add is measured against it.""",
    ),
    Described(
        "stage1_checkpoint",
        ("pytorch", "safetensors", "mlflow"),
        """Stage 1, 3D-visual pretraining on hand3d_visual: only the fusion layer learns (V_f = V_sem + alpha F_spa), both
encoders and the language model are frozen (VIPA-VLA 3.3).""",
    ),
    Described(
        "stage2_checkpoint",
        ("pytorch", "safetensors", "mlflow"),
        """Stage 2, 3D-action pretraining on hand3d_action: fusion, language model and motion-token embeddings learn to predict
wrist motion; both encoders are frozen (VIPA-VLA 3.3).""",
    ),
    Described(
        "robot_demonstrations",
        ("mujoco", "parquet"),
        """Successful episodes of a scripted expert in LIBERO (MuJoCo, CPU), as a LeRobot v3 data set: images of each view, state
(8) and action (7 numbers in [-1, 1]) a step. Failed attempts are rejects. Published sets can stand in its place.""",
    ),
    Described(
        "posttrained_policies",
        ("pytorch", "safetensors", "mlflow"),
        """Stage 3, post-training on robot demonstrations: language model and flow-matching action head learn, target a - eps at
a_tau = (1 - tau) eps + tau a (VIPA-VLA 3.4). Loads as a policy: observation in, chunk of 7-number actions out.""",
    ),
)

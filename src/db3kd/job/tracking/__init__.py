"""Trackers of experiments as `Progress`: TensorBoard, MLflow, Weights & Biases.

Each needs its extra, keeps what it writes on this machine unless its own environment says
otherwise, and costs no query.
"""

from db3kd.job.tracking.backends import mlflow, tensorboard, wandb
from db3kd.job.tracking.tracker import Tracker, together

__all__ = ["Tracker", "mlflow", "tensorboard", "together", "wandb"]

"""The student: networks, soft labels (Eq. 6, 7), the loss (Eq. 1), training, evaluation, files."""

from db3kd.student.batches import resident
from db3kd.student.card import Origin, StudentCard
from db3kd.student.evaluate import accuracy, agreement, classes_of, predict
from db3kd.student.files import load_network, save_network
from db3kd.student.loaded import Student, load_student
from db3kd.student.loss import distillation_loss
from db3kd.student.training import repeats, train, training_identity

__all__ = [
    "Origin",
    "Student",
    "StudentCard",
    "accuracy",
    "agreement",
    "classes_of",
    "distillation_loss",
    "load_network",
    "load_student",
    "predict",
    "repeats",
    "resident",
    "save_network",
    "train",
    "training_identity",
]

"""Train the digits' classifier and lay it out as each server wants it.

Runs in `.venv-servers`, so that the versions agree: `python make_model.py FOLDER [--mlflow]`.
"""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
from digits import Digits
from sklearn.datasets import load_digits

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINING = 900  # the other 897 are for the tests


def main(folder: Path, *, for_mlflow: bool) -> None:
    """Write `mlserver/`, `words.joblib`, `known.npz` and, where it is wanted, `mlflow/`."""
    known = load_digits()
    rows = np.rint(known.data / 16 * 255).astype(np.float32) / np.float32(255)
    words = np.array(WORDS)[known.target]
    numbers = Digits(max_iter=2000).fit(rows[:TRAINING], known.target[:TRAINING])
    names = Digits(max_iter=2000).fit(rows[:TRAINING], words[:TRAINING])
    folder.mkdir(parents=True, exist_ok=True)
    for_mlserver(folder / "mlserver", numbers, names)
    joblib.dump(names, folder / "words.joblib")
    if for_mlflow:
        save_mlflow(folder / "mlflow" / "digits", numbers)
        save_mlflow(folder / "mlflow" / "words", names)
    rest = rows[TRAINING:]
    np.savez(
        folder / "known.npz",
        images=rest.reshape(-1, 1, 8, 8),
        labels=numbers.predict(rest),
        words=names.predict(rest),
        truth=known.target[TRAINING:],
    )


def for_mlserver(folder: Path, numbers: Digits, names: Digits) -> None:
    """Three models: arrays to numbers, arrays to words, image files to words."""
    files = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [-1, 1],
        "parameters": {"content_type": "base64"},
    }
    for name, model, inputs in (
        ("digits", numbers, []),
        ("words", names, []),
        ("files", names, [files]),
    ):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, place / "model.joblib")
        settings = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "inputs": inputs,
            "parameters": {"uri": "./model.joblib", "version": "1"},
        }
        (place / "model-settings.json").write_text(json.dumps(settings, indent=2))


def save_mlflow(folder: Path, model: Digits) -> None:
    """A saved scikit-learn model with no list of packages: it is served by this environment."""
    import mlflow.sklearn

    mlflow.sklearn.save_model(
        model, str(folder), serialization_format="cloudpickle", pip_requirements=[]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), for_mlflow="--mlflow" in sys.argv[2:])

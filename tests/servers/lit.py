"""Image files by POST to LitServe: one file in, a list of labels with scores out.

Runs in `.venv-servers`: `python lit.py MODEL PORT`.
"""

import sys
from typing import Annotated, Any

import joblib
import litserve
from fastapi import Body, HTTPException


class DigitFiles(litserve.LitAPI):  # type: ignore[misc]
    """The body of a request is one PNG or JPEG file; the answer has the best three words."""

    def __init__(self, model: str) -> None:
        super().__init__(api_path="/predict")
        self.path = model

    def setup(self, device: str) -> None:
        """Load the model, once in each worker."""
        del device
        self.model = joblib.load(self.path)

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        """The file as it came."""
        return bytes(request)

    def predict(self, x: bytes) -> Any:
        """Probability of each word; a file that is no image is the client's mistake."""
        try:
            return self.model.predict_proba([x])[0]
        except (OSError, ValueError) as error:
            raise HTTPException(status_code=415, detail="this is no image file") from error

    def encode_response(self, output: Any) -> list[dict[str, object]]:
        """The best three words, the best one first."""
        best = output.argsort()[::-1][:3]
        return [
            {"label": str(self.model.classes_[i]), "score": round(float(output[i]), 6)}
            for i in best
        ]


if __name__ == "__main__":
    server = litserve.LitServer(
        DigitFiles(sys.argv[1]), accelerator="cpu", workers_per_device=1, timeout=20
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False
    )

"""How a remote teacher is asked, what its answers cost, and what is done about noise."""

from typing import Annotated, Any, Literal

import msgspec

from db3kd.config.patterns import LONGEST
from db3kd.config.types import Above0, AtLeast0, Count, Few, Flips, Natural

Kind = Literal["float32", "uint8", "png", "jpeg"]
Channels = Literal["same", "rgb", "bgr", "grey"]
Layout = Literal["chw", "hwc", "flat"]
Unknown = Literal["refuse", "drop", "other", "extend"]
Protocols = Literal["oip", "mlflow", "raw", "form", "concepts", "template"]
Verb = Literal["POST", "PUT", "GET"]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a teacher's answers cost.

    - `per_1000`: the price of a thousand images.
    - `currency`: its name, which is only shown.
    - `failed`: whether failed calls are charged as well. Then an image counts each time it is sent.

    >>> Price(per_1000=1.5, currency="EUR").failed
    False
    """

    per_1000: AtLeast0
    currency: str = ""
    failed: bool = False


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about a teacher that does not always say the same, or changes (`docs/noisy.md`).

    - `flips`: the share of answers that are wrong by chance; 0 asks each image once. Otherwise each
      image is asked again until one class leads clearly enough.
    - `error`: the largest share of answers that may stay wrong.
    - `most`: the most questions for one image.
    - `repeats`: the most queries that asking again may cost in all.
    - `canaries`: a safetensors file with `images` and known `answers`, as `db3kd check --canaries`
      writes it. The run stops where the teacher no longer answers them as it did.
    - `every`: how many images are asked between two such tests.

    >>> Noise(flips=0.02).most
    9
    """

    flips: Flips = 0.0
    error: Annotated[float, msgspec.Meta(gt=0, lt=0.5)] = 1e-3
    most: Count = 9
    repeats: Natural | None = None
    canaries: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    every: Count = 10_000


class Encoding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image is shown to a teacher.

    - `kind`: an array of "float32" or "uint8" numbers, or a "png" or "jpeg" file. All but "float32"
      round to 256 levels. Only a remote teacher takes files.
    - `quality`: of a JPEG file, 1 to 100. Colours keep their full resolution.
    - `size`: (height, width) that the teacher wants, if it differs from that of the images.
      Resizing is bilinear, and antialiased where it shrinks.
    - `channels`: "rgb", "bgr" or "grey", if the teacher wants other channels than the images have.
    - `layout`: the order of an array: "chw" is (channels, height, width), "hwc" is (height, width,
      channels), "flat" is "chw" in one row.

    For "float32" alone, where the lowest value of a pixel is sent as 0:

    - `scale`: the number that the highest value is sent as, such as 255.
    - `mean`, `std`: subtracted and divided by after that; one number for each channel that is sent,
      or one for all. 0.5 and 0.5 give -1 to 1.

    >>> Encoding(kind="jpeg", quality=90, size=(224, 224)).channels
    'same'
    """

    kind: Kind = "png"
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 95
    size: tuple[Count, Count] | None = None
    channels: Channels = "same"
    layout: Layout = "chw"
    mean: tuple[float, ...] = ()
    std: tuple[Above0, ...] = ()
    scale: Above0 = 1.0


class Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a remote teacher calls its classes.

    - `names`: class i is called names[i]. Without names the teacher answers whole numbers.
    - `unknown`: what an answer means that is none of them. "refuse" is an error; "drop" is "I do
      not know", and such images are left out of what students learn; "other" is one more class, the
      last; "extend" is a new class as long as there is room, in the order in which names are met.
    - `synonyms`: other words for a name.
    - `ignore_case`: "Cat" is "cat".

    An answer that is no name as it is counts without white space, quotes, asterisks and
    punctuation around it: "Cat." is "Cat".

    >>> Names(names=("cat", "dog"), synonyms={"puppy": "dog"}).unknown
    'refuse'
    """

    names: tuple[str, ...] = ()
    unknown: Unknown = "refuse"
    synonyms: dict[str, str] = {}
    ignore_case: bool = False

    @property
    def one_more(self) -> bool:
        """Whether unknown answers are a class of their own, the last, beyond the names."""
        return self.unknown in ("drop", "other")


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher behind HTTP: where it is, how it is asked, and how much it may be asked.

    Where it is:

    - `url`: its address. "oip" and "mlflow" add their own path.
    - `protocol`: "oip" is the Open Inference Protocol (KServe, Triton, MLServer), "mlflow" the
      MLflow scoring server, "raw" an image file as the body (TorchServe, Hugging Face), "form" an
      upload as browsers send it (FastAPI), "concepts" nested JSON with codes of its own (Clarifai),
      "template" anything else.
    - `model`, `version`: for "oip", and for "concepts" where the address does not name them.
    - `headers`: sent with each request. "${NAME}" in a value stands for that environment variable;
      a secret can be given in no other way.
    - `plain_http`: allows http, without encryption, to another machine.

    What is sent, and where the label is:

    - `encoding`, `names`: how an image is sent, and what classes are called.
    - `input`, `output`: the model's tensors in "oip"; `output` also names the column of "mlflow".
      `output` may be left out if there is only one.
    - `binary`: sends the tensors of "oip" as bytes instead of JSON.
    - `classification`: asks Triton for "score:index:label" of the best class, instead of scores.
    - `path`: where in the reply the label is, such as "outputs[0].label"; for "mlflow", where in
      each prediction. Without it a reply may also be plain text.
    - `pattern`: a regular expression that finds the name in an answer that is a sentence, as its
      first group or else as the whole match. An answer in which it finds nothing, or several
      names, is unknown.
    - `body`: the template. "{image}" or "{images}" is replaced by what is sent.
    - `field`, `fields`: of "form", the field of the image file, and further fields of text, whose
      values may name environment variables as those of headers do.
    - `method`: of "raw", "form" and "template".
    - `largest_reply`: the most bytes of a reply that are read.

    How much it may be asked:

    - `batch`: the most images in a request.
    - `concurrency`: how many requests are on their way at a time.
    - `timeout`: the most seconds that a request may take.
    - `attempts`: how often an image is sent before it is given up.
    - `per_second`, `per_minute`, `per_day`: the most requests; None for no limit.
    - `patience`: the longest pause in seconds that the teacher may ask for before the run stops.

    >>> Remote(url="http://localhost:8080", protocol="oip", model="digits").batch
    64
    """

    url: str
    protocol: Protocols
    model: str | None = None
    version: str | None = None
    input: str = "input-0"
    output: str | None = None
    binary: bool = False
    classification: bool = False
    path: str = ""
    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)] | None = None
    headers: dict[str, str] = {}
    body: str | None = None
    field: str = "file"
    fields: dict[str, str] = {}
    method: Verb = "POST"
    encoding: Encoding = Encoding()
    names: Names = Names()
    batch: Count = 64
    concurrency: Few = 4
    timeout: Above0 = 30.0
    attempts: Few = 6
    per_second: Count | None = None
    per_minute: Count | None = None
    per_day: Count | None = None
    patience: AtLeast0 = 300.0
    plain_http: bool = False
    largest_reply: Count = 16 * 1024 * 1024


_FIRST = {
    Remote: "url protocol model version input output binary path body method encoding names",
    Encoding: "kind quality size channels layout mean std scale",
    Names: "names unknown synonyms ignore_case",
}
_LATER = ("classification", "pattern", "field", "fields")


def who(remote: Remote) -> dict[str, Any]:
    """The settings that say which teacher it is and what it is shown, as plain data.

    All others say how it is asked. Settings that came later are in it only where they differ from
    their defaults, so that a teacher without them stays the same one.

    >>> found = who(Remote(url="http://localhost", protocol="raw", pattern="cat|dog", batch=1))
    >>> found["pattern"], "field" in found, "batch" in found
    ('cat|dog', False, False)
    """
    plain = Remote(url="", protocol="oip")
    told = _told(remote, plain) | {
        "encoding": _told(remote.encoding, plain.encoding),
        "names": _told(remote.names, plain.names),
    }
    kept = (*_FIRST[Remote].split(), *_LATER)
    return {name: value for name, value in told.items() if name in kept}


def _told(record: msgspec.Struct, plain: msgspec.Struct) -> dict[str, Any]:
    """The fields that were there at first, and the later ones that differ from their defaults."""
    first, defaults = _FIRST[type(record)].split(), msgspec.to_builtins(plain)
    values = msgspec.to_builtins(record)
    return {k: v for k, v in values.items() if k in first or v != defaults[k]}

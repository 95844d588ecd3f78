"""How a remote teacher is asked, what its answers cost, and what is done about noise."""

from typing import Annotated, Literal

import msgspec

from db3kd.config.types import Above0, AtLeast0, Count, Flips, Natural

Kind = Literal["float32", "uint8", "png", "jpeg"]
Channels = Literal["same", "rgb", "bgr", "grey"]
Layout = Literal["chw", "hwc", "flat"]
Unknown = Literal["refuse", "other", "extend"]
Protocols = Literal["oip", "mlflow", "raw", "concepts", "template"]
Verb = Literal["POST", "PUT", "GET"]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a teacher's answers cost.

    `per_1000`: for a thousand images. `currency`: its name, which is only shown. `failed`: whether
    calls that fail are charged, too; those that are repeated then count as often as they are sent.

    >>> Price(per_1000=1.5, currency="EUR").failed
    False
    """

    per_1000: AtLeast0
    currency: str = ""
    failed: bool = False


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about a teacher that does not always say the same, or changes (`docs/noisy.md`).

    `flips`: the share of answers that are wrong by chance. Each image is asked again until one
    class leads by so much that at most a share `error` of the answers stays wrong, `most` times at
    most; 0 asks once. `repeats`: the most that asking again may cost in all. `canaries`: a
    safetensors file with `images` and `answers`, as `db3kd.teachers.noisy.canaries` makes them;
    some are asked again once in `every` images, and the run stops where the teacher has changed.

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
    """As what an image is sent to a remote teacher.

    `kind`: an array of "float32" or "uint8" numbers, or a "png" or "jpeg" file; all but "float32"
    have 256 grey levels. `quality`: of a JPEG, 1 to 100; colours keep their full resolution.
    `size`: (height, width) that the teacher wants, if it is another than that of the images; made
    by bilinear interpolation, antialiased where it is smaller. `channels`: "rgb", "bgr" or "grey"
    if the teacher wants others than the images have. `layout`, of an array: (channels, height,
    width) is "chw"; "hwc"; or all in one row, "flat", channel by channel.
    Of "float32" alone: the lowest value of a pixel is sent as 0 and the highest as `scale`; then
    `mean` is subtracted and the rest divided by `std`, one number for each channel that is sent,
    or one for all.

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

    `names`: class i is called names[i]; without names the teacher answers whole numbers. `unknown`:
    an answer that is no name is an error ("refuse"), or one class more, the last ("other"), or a
    new name, as long as there are fewer than classes ("extend"; names are learned in the order in
    which they are met). `synonyms`: other words for a name. `ignore_case`: "Cat" is "cat".

    >>> Names(names=("cat", "dog"), synonyms={"puppy": "dog"}).unknown
    'refuse'
    """

    names: tuple[str, ...] = ()
    unknown: Unknown = "refuse"
    synonyms: dict[str, str] = {}
    ignore_case: bool = False


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher behind HTTP: where it is, how it is asked, and how much it may be asked.

    `url`: its address; "oip" and "mlflow" add their own path. `protocol`: "oip" is the Open
    Inference Protocol (KServe, Triton, MLServer), "mlflow" its scoring server, "raw" an image file
    as the body (TorchServe, Hugging Face), "concepts" nested JSON with codes of its own (Clarifai),
    "template" anything else. `model` and `version`: of "oip", and of "concepts" where the address
    does not name them. `input`, `output`: names of the model's tensors in "oip"; `output` is also
    that of "mlflow"; None if there is but one. `binary`: tensors of "oip" as bytes, not JSON.
    `path`: where in the answer the label is, as in "outputs[0].label"; in "mlflow", where in each
    prediction. `headers`: "${NAME}" in a value is replaced by that environment variable when a
    request is sent; secrets can be given in no other way. `body`: the template, in which "{image}"
    or "{images}" is replaced (`db3kd.teachers.remote.protocols.template`). `method`: of "raw" and
    "template".
    `encoding` and `names`: what images are sent as, and what classes are called. `batch`: images in
    a request, at most. `concurrency`: requests at a time. `timeout`: seconds that a request may
    take. `attempts`: how often an image is asked until it is given up. `per_second`, `per_minute`,
    `per_day`: the most requests, None for no limit. `patience`: seconds that the teacher may ask to
    be left alone; if it asks for more, the run stops. `plain_http`: allow http to another machine.
    `largest_reply`: bytes of an answer that are read, at most.

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
    path: str = ""
    headers: dict[str, str] = {}
    body: str | None = None
    method: Verb = "POST"
    encoding: Encoding = Encoding()
    names: Names = Names()
    batch: Count = 64
    concurrency: Count = 4
    timeout: Above0 = 30.0
    attempts: Count = 6
    per_second: Count | None = None
    per_minute: Count | None = None
    per_day: Count | None = None
    patience: AtLeast0 = 300.0
    plain_http: bool = False
    largest_reply: Count = 16 * 1024 * 1024

"""The client that calls a remote teacher, and in words why it did not get through."""

import os
import socket
import ssl
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx2

from db3kd.config.remote import Remote
from db3kd.errors import InputError, plain

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CERTIFICATES = "SSL_CERT_FILE"  # the variable that names the file of those that are trusted


def client(settings: Remote) -> httpx2.AsyncClient:
    """A client that keeps connections, and no cookies; proxies are not asked for this machine.

    Raises:
        InputError: the environment names certificates or a proxy that cannot be used.
    """
    local = urlsplit(settings.url).hostname in LOOPBACK
    most = settings.concurrency
    try:
        trusted = os.environ.get(CERTIFICATES) if local else None
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(settings.timeout),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            headers={"accept-encoding": "identity", "user-agent": "db3kd"},
            trust_env=not local,  # proxies and certificates of the user's own
            verify=ssl.create_default_context(cafile=trusted) if trusted else True,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),  # none is kept
        )
    except OSError as error:
        reason = plain(error.strerror or error, 120)
        raise InputError(
            f"the certificates that {CERTIFICATES} of the environment names cannot be used"
            f" ({reason}); correct or unset it, and SSL_CERT_DIR and SSLKEYLOGFILE likewise"
        ) from None
    except (ValueError, ImportError, httpx2.InvalidURL):  # whose text may hold a password
        raise InputError(
            "the proxy that the environment names cannot be used; give http://HOST:PORT, or unset"
            " HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        ) from None


def why(error: BaseException) -> str:
    """Why a connection failed, in a few words of our own; nothing that may be secret.

    >>> why(ConnectionRefusedError()), why(httpx2.ReadError("..."))
    ('nobody listens there', 'ReadError')
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = plain(cause.verify_message, 80)
            return (
                f"its certificate is not trusted: {reason}; {CERTIFICATES} of the environment may"
                " name a file of certificates to trust"
            )
        if isinstance(cause, ssl.SSLError):
            return "https is not spoken there; is it http?"
        if isinstance(cause, socket.gaierror):
            return "nobody knows a host of that name"
        if isinstance(cause, ConnectionRefusedError):
            return "nobody listens there"
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the first of each group."""
    found: BaseException | None = error
    for _ in range(20):
        if found is None:
            return
        yield found
        inner = found.exceptions[0] if isinstance(found, BaseExceptionGroup) else None
        found = inner or found.__cause__ or found.__context__


def place_of(location: str) -> str:
    """Where a redirect leads, in brackets, without what may be secret in it; "" if that is unclear.

    >>> place_of("https://example.org/classify/?key=7"), place_of("")
    (' (https://example.org/classify/)', '')
    """
    text = plain(location.partition("?")[0].partition("#")[0], 120)
    return f" ({text})" if text and "@" not in text else ""

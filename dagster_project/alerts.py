"""Tell people what went wrong: failed runs, failed checks, assets past their freshness policy.

Sinks are chosen by HAND3D_ALERTS ("log,webhook,email") and set by environment variables alone (docs/operations.md has
them). One sensor looks every half minute, remembers what it told to whom, and tells a sink that failed again later:
no sink hides another's alert, nothing is told twice, and no run knows of any of it.
"""

import json
import logging
import os
import smtplib
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from hashlib import sha256
from typing import Protocol
from urllib.parse import urlsplit

TIMEOUT_S = 10.0
LOGGER = logging.getLogger("hand3d.alerts")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Alert:
    """key: the same for the same event, whoever tells it and however often. level: "error" or "warning"."""

    key: str
    level: str
    title: str
    text: str
    link: str = ""


class Sink(Protocol):
    """Where alerts go. Raises OSError (smtplib's and urllib's errors are) when it could not be told."""

    name: str

    def send(self, alert: Alert) -> None: ...


class Log:
    """A line of JSON in the log of the code location."""

    name = "log"

    def send(self, alert: Alert) -> None:
        level = logging.ERROR if alert.level == "error" else logging.WARNING
        LOGGER.log(level, json.dumps(asdict(alert)))


@dataclass(frozen=True, repr=False)  # repr: an address can hold a secret
class Webhook:
    """POST of JSON with `text` as chat systems want it, and the alert's own fields; `key` lets a receiver drop repeats."""

    url: str
    token: str = ""
    name = "webhook"

    def send(self, alert: Alert) -> None:
        said = "\n".join(filter(None, [f"{alert.level}: {alert.title}", alert.text, alert.link]))
        body = json.dumps(asdict(alert) | {"text": said}).encode()
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token goes to the address that was given, nowhere else."""

    def redirect_request(self, *_):
        return None


@dataclass(frozen=True, repr=False)
class Email:
    """One message an alert. tls: "starttls", "ssl" or "off". The Message-ID is the alert's key."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    user: str = ""
    password: str = ""
    tls: str = "starttls"
    name = "email"

    def send(self, alert: Alert) -> None:
        message = EmailMessage()
        message["Subject"] = " ".join(f"[hand3d] {alert.level}: {alert.title}".split())[:200]
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Message-ID"] = f"<{sha256(alert.key.encode()).hexdigest()[:32]}@hand3d>"
        message.set_content("\n\n".join(filter(None, [alert.text, alert.link])))
        with self._server() as server:
            if self.user:
                server.login(self.user, self.password)
            server.send_message(message)

    def _server(self) -> smtplib.SMTP:
        if self.tls == "ssl":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
        if self.tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        return server


def _webhook(given: Mapping[str, str]) -> Webhook:
    url = _required(given, "HAND3D_ALERT_WEBHOOK_URL", "webhook")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("HAND3D_ALERT_WEBHOOK_URL must be an http or https address")
    return Webhook(url, given.get("HAND3D_ALERT_WEBHOOK_TOKEN", ""))


def _email(given: Mapping[str, str]) -> Email:
    host = _required(given, "HAND3D_ALERT_SMTP_HOST", "email")
    tls = given.get("HAND3D_ALERT_SMTP_TLS", "starttls")
    if tls not in ("starttls", "ssl", "off"):
        raise ValueError(f"HAND3D_ALERT_SMTP_TLS is starttls, ssl or off, got {tls!r}")
    user, password = given.get("HAND3D_ALERT_SMTP_USER", ""), given.get("HAND3D_ALERT_SMTP_PASSWORD", "")
    if user and tls == "off" and host not in LOOPBACK:
        raise ValueError("HAND3D_ALERT_SMTP_TLS=off would send the password in the clear: use starttls or ssl")
    port = given.get("HAND3D_ALERT_SMTP_PORT", "465" if tls == "ssl" else "587")
    if not port.isdigit():
        raise ValueError(f"HAND3D_ALERT_SMTP_PORT is a number, got {port!r}")
    to = tuple(part.strip() for part in _required(given, "HAND3D_ALERT_EMAIL_TO", "email").split(",") if part.strip())
    return Email(host, int(port), given.get("HAND3D_ALERT_EMAIL_FROM", to[0]), to, user, password, tls)


SINKS: dict[str, Callable[[Mapping[str, str]], Sink]] = {"log": lambda _: Log(), "webhook": _webhook, "email": _email}
"""Name in HAND3D_ALERTS -> maker from the environment. One more sink is one more entry."""


def sinks(given: Mapping[str, str] = os.environ) -> list[Sink]:
    """Sinks that HAND3D_ALERTS names ("log" where it is not set). Raises ValueError naming the variable, never a value
    that can be secret."""
    names = [name.strip() for name in given.get("HAND3D_ALERTS", "log").split(",") if name.strip()]
    unknown = [name for name in names if name not in SINKS]
    if unknown:
        raise ValueError(f"HAND3D_ALERTS names {', '.join(unknown)}; there are: {', '.join(SINKS)}")
    return [SINKS[name](given) for name in dict.fromkeys(names)]


def _required(given: Mapping[str, str], name: str, sink: str) -> str:
    if not given.get(name):
        raise ValueError(f"HAND3D_ALERTS names {sink}, which needs {name}")
    return given[name]


def deliver(alert: Alert, to: list[Sink]) -> dict[str, str]:
    """Tell every sink; those that failed -> how, without addresses or secrets."""
    failed = {}
    for sink in to:
        try:
            sink.send(alert)
        except Exception as error:  # whatever a sink does, the others are told
            failed[sink.name] = _how(error)
            LOGGER.warning("alert %s could not be given to %s: %s", alert.key, sink.name, failed[sink.name])
    return failed


def _how(error: Exception) -> str:
    """Kind and number of an error: its words can quote an address or what a server was told."""
    number = getattr(error, "code", None) or getattr(error, "smtp_code", None) or getattr(error, "errno", None)
    return f"{type(error).__name__} {number}" if number else type(error).__name__

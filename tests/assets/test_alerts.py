"""Alerts reach real servers; a sink that fails hides nothing, nothing is told twice, no secret is said."""

import http.server
import json
import logging
import socketserver
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from assets import upkeep
from dagster_project import alerts, sensors, watch
from dagster_project.alerts import Alert

SECRET = "hush-4711"
ONE = Alert("run 1", "error", "run failed: mano_fits two", "line one\nline two", "http://ui/runs/1")


@contextmanager
def served(handler, **state):
    """A real server on a free port of this machine; yields it with its state."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    vars(server).update(state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.server.answer)
        if self.server.answer == 307:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as smtplib speaks without TLS."""

    def handle(self):
        self.say("220 test")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text.decode().rstrip())
                self.server.got.append(lines)
            elif word in ("RCPT", "AUTH"):
                self.server.said.append(line)
            self.say({"AUTH": "235 ok", "QUIT": "221 bye", "EHLO": "250-test\r\n250 AUTH PLAIN"}.get(word, "250 ok"))
            if word == "QUIT":
                return

    def say(self, text):
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(alerts, "TIMEOUT_S", 5.0)


def hook(server, **more):
    return {"HAND3D_ALERT_WEBHOOK_URL": f"http://127.0.0.1:{server.server_address[1]}/{SECRET}", **more}


def mail(server):
    return {
        "HAND3D_ALERT_SMTP_HOST": "127.0.0.1",
        "HAND3D_ALERT_SMTP_PORT": str(server.server_address[1]),
        "HAND3D_ALERT_SMTP_TLS": "off",
        "HAND3D_ALERT_SMTP_USER": "hand3d",
        "HAND3D_ALERT_SMTP_PASSWORD": SECRET,
        "HAND3D_ALERT_EMAIL_TO": "a@example.org, b@example.org",
    }


def test_webhook_gets_the_alert_with_its_token():
    with served(Hook, got=[], answer=200) as server:
        (sink,) = alerts.sinks({"HAND3D_ALERTS": "webhook", **hook(server, HAND3D_ALERT_WEBHOOK_TOKEN=SECRET)})
        assert alerts.deliver(ONE, [sink]) == {}
    ((path, headers, body),) = server.got
    assert path == f"/{SECRET}"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body["key"] == "run 1"
    assert body["text"] == "error: run failed: mano_fits two\nline one\nline two\nhttp://ui/runs/1"


def test_webhook_follows_no_redirect_with_the_token():
    with served(Hook, got=[], answer=307) as server:
        (sink,) = alerts.sinks({"HAND3D_ALERTS": "webhook", **hook(server, HAND3D_ALERT_WEBHOOK_TOKEN=SECRET)})
        assert alerts.deliver(ONE, [sink]) == {"webhook": "HTTPError 307"}
    assert len(server.got) == 1


def test_email_reaches_every_receiver():
    with served(Mail, got=[], said=[]) as server:
        (sink,) = alerts.sinks({"HAND3D_ALERTS": "email", **mail(server)})
        assert alerts.deliver(ONE, [sink]) == {}
    ((*lines,),) = server.got
    assert "Subject: [hand3d] error: run failed: mano_fits two" in lines
    assert lines[-4:-2] == ["line one", "line two"] or "line two" in lines
    assert [line for line in server.said if line.startswith("RCPT")] == [
        "RCPT TO:<a@example.org>",
        "RCPT TO:<b@example.org>",
    ] or [line.upper() for line in server.said if "RCPT" in line.upper()] == [
        "RCPT TO:<A@EXAMPLE.ORG>",
        "RCPT TO:<B@EXAMPLE.ORG>",
    ]
    assert any(line.startswith("AUTH") for line in server.said)


def test_password_is_not_given_to_a_server_without_tls():
    with served(Mail, got=[], said=[]) as server:
        (sink,) = alerts.sinks({"HAND3D_ALERTS": "email", **mail(server), "HAND3D_ALERT_SMTP_TLS": "starttls"})
        assert list(alerts.deliver(ONE, [sink])) == ["email"]
    assert server.said == server.got == []
    elsewhere = {**mail(server), "HAND3D_ALERT_SMTP_HOST": "mail.example.org"}
    with pytest.raises(ValueError, match="in the clear"):
        alerts.sinks({"HAND3D_ALERTS": "email", **elsewhere})


def test_failing_sinks_hide_no_other_and_no_secret_is_logged(caplog, capfd):
    with served(Hook, got=[], answer=500) as server, served(Mail, got=[], said=[]) as post:
        given = {"HAND3D_ALERTS": "webhook,log,email", **hook(server), **mail(post)}
        with caplog.at_level(logging.DEBUG):
            failed = alerts.deliver(ONE, alerts.sinks(given))
    assert failed == {"webhook": "HTTPError 500"}
    assert len(post.got) == 1
    said = caplog.text + "".join(capfd.readouterr()) + repr(alerts.sinks(given))
    assert "mano_fits two" in said
    assert SECRET not in said
    gone = alerts.deliver(ONE, alerts.sinks(given))  # neither server is there any more
    assert set(gone) == {"webhook", "email"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"HAND3D_ALERTS": "log,pigeon"}, "pigeon; there are: log, webhook, email"),
        ({"HAND3D_ALERTS": "webhook"}, "needs HAND3D_ALERT_WEBHOOK_URL"),
        ({"HAND3D_ALERTS": "webhook", "HAND3D_ALERT_WEBHOOK_URL": f"file:///{SECRET}"}, "http or https address"),
        ({"HAND3D_ALERTS": "email"}, "needs HAND3D_ALERT_SMTP_HOST"),
        ({"HAND3D_ALERTS": "email", "HAND3D_ALERT_SMTP_HOST": "x"}, "needs HAND3D_ALERT_EMAIL_TO"),
    ],
)
def test_settings_that_do_not_hold_are_named_without_their_value(given, said):
    with pytest.raises(ValueError, match=said) as caught:
        alerts.sinks(given)
    assert SECRET not in str(caught.value)


class Memory:
    """A sink that keeps what it was told, and fails while told to."""

    def __init__(self, name):
        self.name, self.got, self.broken = name, [], False

    def send(self, alert):
        if self.broken:
            raise OSError("down")
        self.got.append(alert.key)


def test_each_sink_is_told_once_and_a_failed_one_later():
    good, bad = Memory("good"), Memory("bad")
    bad.broken = True
    told, _ = watch.tell([ONE], {}, [good, bad])
    told, lines = watch.tell([ONE], told, [good, bad])
    assert lines == ["run failed: mano_fits two: not told to bad"]
    bad.broken = False
    for _ in range(2):
        told, _ = watch.tell([ONE], told, [good, bad])
    assert good.got == bad.got == ["run 1"]


def test_a_storm_is_spread_over_ticks_and_none_is_lost():
    many = [Alert(f"run {number}", "error", "t", "x") for number in range(50)]
    sink, told = Memory("sink"), {}
    for _ in range(3):
        told, _ = watch.tell(many, told, [sink])
    assert sorted(sink.got) == sorted(alert.key for alert in many)
    told, _ = watch.tell(many[40:], told, [sink])
    assert len(told) == 10, "what is past the window is forgotten"
    assert len(sink.got) == 50


@dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="thing", blocking=name == "hard") for name in ("hard", "soft")])
def thing(context):
    """Fails as its run's tags say."""
    tags = context.run.tags
    if "error" in tags:
        raise ValueError("the innermost reason")
    return dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(check_name="hard", passed="hard" not in tags, description="too hard"),
            dg.AssetCheckResult(
                check_name="soft", passed="soft" not in tags, severity=dg.AssetCheckSeverity.WARN, description="so so"
            ),
        ]
    )


AGED = dg.AssetSpec("aged", freshness_policy=upkeep.SURVEY_WITHIN)


@pytest.fixture
def seen(monkeypatch):
    """Tick the sensor over an instance: run(**tags) makes one run, tick() gives the titles it told."""
    sink = Memory("memory")
    sink.send = lambda alert: sink.got.append((alert.level, alert.title, alert.text))
    monkeypatch.setitem(alerts.SINKS, "memory", lambda _: sink)
    monkeypatch.setenv("HAND3D_ALERTS", "memory")
    monkeypatch.setenv("HAND3D_UI_URL", "http://ui")
    defs = dg.Definitions(assets=[thing, AGED], sensors=[watch.alert_sensor()])
    repository = defs.get_repository_def()
    state = SimpleNamespace(cursor=None)
    with dg.DagsterInstance.ephemeral() as instance:

        def run(**tags):
            job = defs.resolve_implicit_global_asset_job_def()
            quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            job.execute_in_process(
                instance=instance,
                tags=tags,
                raise_on_error=False,
                run_config=quiet,
                asset_selection=[dg.AssetKey("thing")],
            )

        def tick():
            context = dg.build_sensor_context(instance=instance, cursor=state.cursor, repository_def=repository)
            state.cursor = repository.get_sensor_def("alerts").evaluate_tick(context).cursor
            found, sink.got = sink.got, []
            return found

        yield SimpleNamespace(run=run, tick=tick, instance=instance)


def test_switching_on_tells_nothing_of_the_past(seen):
    seen.run(error="yes")
    assert seen.tick() == []
    seen.run(error="yes")
    assert len(seen.tick()) == 1


def test_failed_run_tells_its_reason_once(seen):
    seen.tick()
    seen.run(error="yes")
    ((level, title, text),) = seen.tick()
    assert (level, title) == ("error", "run failed: thing")
    assert "the innermost reason" in text
    assert seen.tick() == []


def test_failed_blocking_check_is_one_alert_with_its_run(seen):
    seen.tick()
    seen.run(hard="yes", soft="yes")
    ((level, title, text),) = seen.tick()
    assert (level, title) == ("error", "run failed: thing")
    assert "check thing: hard: too hard" in text
    assert seen.tick() == []


def test_warning_of_a_good_run_is_told_once_an_evaluation(seen):
    seen.tick()
    seen.run(soft="yes")
    assert seen.tick() == [("warning", "check failed: thing: soft", "so so")]
    assert seen.tick() == []
    seen.run(soft="yes")
    assert len(seen.tick()) == 1


def test_check_reported_without_a_run_is_told(seen):
    seen.tick()
    event = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("thing"), check_name="hard", passed=False, metadata={}, description="gone"
    )
    seen.instance.report_runless_asset_event(event)
    assert seen.tick() == [("error", "check failed: thing: hard", "gone")]


def test_freshness_is_told_at_each_change_for_the_worse(seen):
    import time

    seen.tick()
    before = FreshnessState.UNKNOWN
    told = []
    for state in (FreshnessState.PASS, FreshnessState.WARN, FreshnessState.WARN, FreshnessState.FAIL):
        if state != before:
            change = FreshnessStateChange(
                key=dg.AssetKey("aged"), previous_state=before, new_state=state, state_change_timestamp=time.time()
            )
            seen.instance._report_runless_asset_event(change)  # as the freshness daemon does
        before = state
        told += [(level, title) for level, title, _ in seen.tick()]
    assert told == [("warning", "not fresh (WARN): aged"), ("error", "not fresh (FAIL): aged")]


def test_everything_is_off_unless_switched_on(monkeypatch):
    monkeypatch.delenv("HAND3D_AUTOMATION", raising=False)
    assert watch.alert_sensor().default_status == dg.DefaultSensorStatus.STOPPED
    monkeypatch.setenv("HAND3D_AUTOMATION", "on")
    assert watch.alert_sensor().default_status == dg.DefaultSensorStatus.RUNNING
    monkeypatch.setenv("HAND3D_AUTOMATION", "yes")
    with pytest.raises(ValueError, match="on or off, got 'yes'"):
        sensors.switched_on()

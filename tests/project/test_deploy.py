"""What lies in deploy/: every file parses, every command in it is one we have, every metric one that we export.

No container engine, systemd or Prometheus is needed; where their own checkers are installed they are asked too.
"""

import configparser
import fnmatch
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_watch import NOW, gappy_lake

from qlib_crypto.cli.app import app
from qlib_crypto.settings import WatchSettings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch.metrics import Exporter
from qlib_crypto.watch.observe import observe

BIN = Path(sys.executable).parent
OURS, OTHERS = "qlib-crypto", ("mlflow", "jupyter")
METRIC = re.compile(r"\b(qlib_crypto_[a-z_]+|up)\b")
FUNCTIONS = {"max", "by", "sum", "rate", "increase", "count", "time", "topk", "on", "group_left", "and", "or", "vector",
             "predict_linear", "label_values"}  # fmt: skip


@pytest.fixture(scope="module")
def deploy(root):
    return root / "deploy"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Sample name → the labels it may have."""
    settings = gappy_lake(tmp_path_factory.mktemp("lake"))
    families = list(Exporter(lambda: observe(settings, [Venue.OKX], wall_ms=NOW), settings).collect())
    labels = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels[name] = {label for sample in family.samples for label in sample.labels}
    return {**labels, "up": {"job", "instance"}}


def check_command(words):
    """Parse a command without running it: unknown commands, options and values fail."""
    program, *arguments = words
    assert Path(program).name in (OURS, *OTHERS), words
    assert (BIN / Path(program).name).is_file(), f"{program} is not installed"
    if Path(program).name == OURS:
        group = typer.main.get_command(app)
        context = group.make_context(OURS, list(arguments))
        name, command, rest = group.resolve_command(context, arguments)
        assert command is not None, words
        command.make_context(name, rest)


def units(deploy):
    found = {}
    for path in sorted((deploy / "systemd").iterdir()):
        parser = configparser.RawConfigParser(strict=False, comment_prefixes="#")
        parser.optionxform = str
        parser.read_string(path.read_text())
        found[path.name] = parser
    return found


def unit_commands(deploy):
    return [shlex.split(unit["Service"]["ExecStart"].replace("%i", venue))
            for unit in units(deploy).values() if "Service" in unit for venue in Venue]  # fmt: skip


def supervised(deploy):
    parser = configparser.RawConfigParser(inline_comment_prefixes=(" ;",), comment_prefixes=(";",))
    parser.read_string((deploy / "supervisord.conf").read_text())
    return parser


def compose(deploy):
    return yaml.safe_load((deploy / "compose.yaml").read_text())


def instructions(deploy):
    """Instruction and argument of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", (deploy / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def every_command(deploy):
    programs = supervised(deploy)
    yield from unit_commands(deploy)
    yield from (shlex.split(programs[s]["command"]) for s in programs.sections() if s.startswith("program:"))
    yield from (s["command"] for s in compose(deploy)["services"].values() if "build" in s)
    yield from (json.loads(argument) for name, argument in instructions(deploy) if name == "CMD")


# --------------------------------------------------------------------------------------------------------- commands


def test_every_command_is_one_that_we_have(deploy):
    commands = list(every_command(deploy))
    assert len(commands) >= 12
    for words in commands:
        check_command(words)
    assert {Path(c[0]).name for c in commands} == {OURS, *OTHERS}


def test_the_check_of_commands_can_fail():
    for words in (["qlib-crypto", "collekt"], ["qlib-crypto", "collect", "--bogus"], ["bash", "-c", "true"]):
        with pytest.raises((AssertionError, typer.TyperException)):
            check_command(words)


@pytest.mark.long
@pytest.mark.parametrize("program", OTHERS)
def test_commands_of_others_know_the_options_that_we_give(deploy, program):
    words = next(c for c in every_command(deploy) if Path(c[0]).name == program)
    given = {w for c in every_command(deploy) if Path(c[0]).name == program for w in c if w.startswith("--")}
    command = [BIN / program, words[1], "--help-all" if program == "jupyter" else "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    known = {*re.findall(r"--[a-zA-Z][\w.-]*", told)}
    assert given - {"--ip", "--port", "--notebook-dir"} <= known, "unknown options"
    if program == "jupyter":
        assert {"--ip=<Unicode>", "--port=<Int>", "--notebook-dir=<Unicode>"} <= set(told.split())


# ----------------------------------------------------------------------------------------------- systemd, supervisor


def test_units_say_what_a_service_needs(deploy):
    found = units(deploy)
    for name, unit in found.items():
        assert unit["Unit"]["Description"], name
        if name.endswith(".service"):
            service = unit["Service"]
            assert service["User"] == "qlib-crypto", name
            assert service["NoNewPrivileges"] == "true", name
            assert service["ExecStart"].startswith(service["WorkingDirectory"]), name
            assert service.get("Restart", "no") != "no" or service["Type"] == "oneshot", name
    assert found["qlib-crypto-daemon.service"]["Service"]["KillMode"] == "mixed", "the daemon ends its own collectors"
    assert "qlib-crypto-health.service" in found, "of the timer"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_nothing_wrong(deploy, root, tmp_path):
    for path in (deploy / "systemd").iterdir():
        text = path.read_text().replace("/opt/qlib-crypto/.venv/bin", str(BIN)).replace("/opt/qlib-crypto", str(root))
        (tmp_path / path.name).write_text(text.replace("User=qlib-crypto", "User=root"))
    for path in tmp_path.iterdir():
        name = path.with_name(path.name.replace("@.", "@okx."))
        result = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", name], capture_output=True, text=True, check=False, timeout=60
        )
        complaints = [line for line in result.stderr.splitlines() if "qlib-crypto" in line]
        assert complaints == []


def test_supervisor_starts_the_daemon_again_and_waits_for_its_end(deploy):
    daemon = supervised(deploy)["program:daemon"]
    assert daemon["autorestart"] == "true"
    assert int(daemon["stopwaitsecs"]) >= 60
    assert daemon["directory"] == "%(here)s/.."
    for section in supervised(deploy).values():
        for key in ("stdout_logfile", "logfile", "pidfile", "file"):
            assert section.get(key, "%(here)s/../reports/").startswith("%(here)s/../reports/")


# ------------------------------------------------------------------------------------------------------- containers


def test_the_image_is_built_from_what_is_here(deploy, root):
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    steps = instructions(deploy)
    assert {name for name, _ in steps} <= known
    name, image = steps[0]
    assert (name, image) == ("FROM", f"python:{(root / '.python-version').read_text().strip()}-slim-bookworm")
    ignored = [
        line for line in (deploy / "Dockerfile.dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    for name, argument in steps:
        if name == "COPY":
            *sources, _ = argument.split()
            for source in sources:
                assert (root / source).exists(), source
                assert any(fnmatch.fnmatch(source, rule[1:]) for rule in ignored if rule[0] == "!"), source
    assert ignored[0] == "*", "no data and no secrets in the image"
    users = [argument for name, argument in steps if name == "USER"]
    assert users[-1].split(":")[0] not in {"root", "0"}
    assert json.loads(dict(steps)["ENTRYPOINT"])[0] == "tini"
    path = dict(a.split("=", 1) for a in shlex.split(dict(steps)["ENV"]))["PATH"].split(":")[0]
    assert path.endswith("/.venv/bin"), "the command line knows its environment by that name"


def test_compose_has_every_service_and_nothing_listens_to_the_world(deploy, root):
    services = compose(deploy)["services"]
    collectors = {f"collect-{venue}" for venue in Venue}
    assert set(services) == {"daemon", "mlflow", "jupyter", "prometheus", "grafana", *collectors}
    assert "--no-collect" in services["daemon"]["command"], "the collectors are services of their own"
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if "build" in service:
            assert (deploy / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"]), "a version, never `latest`"
        assert service["restart"] == "unless-stopped"
        assert set(service.get("depends_on", [])) <= set(services)
        if "network_mode" in service:
            assert service["network_mode"].removeprefix("service:") in services
            assert "ports" not in service, "they belong to the service whose network it shares"
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            if source.startswith("."):
                assert (deploy / source).resolve().exists(), volume
            else:
                assert source in compose(deploy)["volumes"], volume


def test_the_daemon_is_healthy_when_its_metrics_are(deploy):
    check = compose(deploy)["services"]["daemon"]["healthcheck"]["test"]
    assert check[:3] == ["CMD", "python", "-c"]
    compile(check[3], "healthcheck", "exec")
    assert f":{WatchSettings().metrics_port}/metrics" in check[3]


# ------------------------------------------------------------------------------------------- Prometheus and Grafana


def rules(deploy):
    groups = yaml.safe_load((deploy / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard(deploy):
    return json.loads((deploy / "grafana" / "dashboards" / "qlib-crypto.json").read_text())


def check_expression(expression, exported):
    """Metrics are exported, and labels are those of the metrics in it; the labels it may give."""
    names = set(METRIC.findall(expression))
    assert names, expression
    assert names <= set(exported), f"{names - set(exported)} in {expression}"
    labels = set().union(*(exported[name] for name in names)) | {"job", "instance"}
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    used |= {part for group in re.findall(r"by \(([\w, ]*)\)", expression) for part in re.findall(r"\w+", group)}
    assert used <= labels, f"{used - labels} in {expression}"
    assert expression.count("(") == expression.count(")")
    words = set(re.findall(r"[a-z_]+(?=\s*\()", re.sub(r'"[^"]*"|\{[^}]*\}', "", expression)))
    assert words - FUNCTIONS - names == set(), f"unknown functions in {expression}"
    return labels


def test_prometheus_reads_the_port_of_the_settings_and_the_rules(deploy):
    config = yaml.safe_load((deploy / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{WatchSettings().metrics_port}"]}]
    assert all((deploy / "prometheus" / file).is_file() for file in config["rule_files"])
    assert all(f'job="{job["job_name"]}"' in r["expr"] for r in rules(deploy) if r["expr"].startswith("up"))


def test_every_rule_asks_for_metrics_that_we_export_and_says_what_to_see(deploy, exported):
    found = rules(deploy)
    assert len({r["alert"] for r in found}) == len(found) >= 15
    for rule in found:
        labels = check_expression(rule["expr"], exported)
        assert rule["labels"]["severity"] in {"warning", "critical"}
        text = " ".join(rule["annotations"].values())
        assert rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels, rule["alert"]
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


def test_every_panel_asks_for_metrics_that_we_export(deploy, exported):
    board = dashboard(deploy)
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len(panels) >= 15
    asked = 0
    for panel in panels:
        assert panel["title"]
        for target in panel.get("targets", []):
            asked += 1
            labels = check_expression(target["expr"].replace("$venue", "x"), exported)
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]
            assert target["datasource"] == panel["datasource"]
        refs = [t["refId"] for t in panel.get("targets", [])]
        assert len(refs) == len(set(refs))
        assert (panel["type"] == "row") == (not refs)
    assert asked >= 20
    (variable,) = board["templating"]["list"]
    check_expression(variable["definition"].replace(", venue", ""), exported)


def test_panels_lie_on_the_grid_without_overlap(deploy):
    boxes = []
    for panel in dashboard(deploy)["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        boxes.append((at["x"], at["y"], at["x"] + at["w"], at["y"] + at["h"], panel["title"]))
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_grafana_finds_prometheus_and_the_dashboard(deploy):
    provisioned = deploy / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioned / "datasources" / "prometheus.yaml").read_text())["datasources"]
    services = compose(deploy)["services"]
    host, port = re.fullmatch(r"http://([\w-]+):(\d+)", source["url"]).groups()
    assert services["prometheus"]["network_mode"] == f"service:{host}"
    assert f"--web.listen-address=0.0.0.0:{port}" in services["prometheus"]["command"]
    used = {p["datasource"]["uid"] for p in dashboard(deploy)["panels"] if "datasource" in p}
    assert used == {source["uid"]}
    (provider,) = yaml.safe_load((provisioned / "dashboards" / "qlib-crypto.yaml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_itself_finds_nothing_wrong_and_its_tests_of_the_rules_pass(deploy):
    folder = deploy / "prometheus"
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True, timeout=60)
    subprocess.run(["promtool", "test", "rules", folder / "alerts_test.yml"], check=True, timeout=60)


def test_the_rules_are_tested_by_name(deploy):
    tests = yaml.safe_load((deploy / "prometheus" / "alerts_test.yml").read_text())["tests"]
    named = {check["alertname"] for test in tests for check in test["alert_rule_test"]}
    assert named <= {rule["alert"] for rule in rules(deploy)}


def test_the_checks_of_expressions_can_fail(exported):
    for expression in ("qlib_crypto_nothing > 0", 'qlib_crypto_collector_up{symbol="x"} == 0', "1 > 0",
                       "foo(qlib_crypto_collector_up) > 0"):  # fmt: skip
        with pytest.raises(AssertionError):
            check_expression(expression, exported)

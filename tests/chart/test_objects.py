"""The chart's objects: names, labels, sizes and the content of their pods."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import CHART, STORIES, Object, render, rendered, set_to, template_of

GOLDEN = Path(__file__).parent / "golden"
UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}


def figure(amount: str) -> int:
    """A size of Redis or Kubernetes in bytes."""
    found = re.fullmatch(r"([0-9]+)([A-Za-z]*)", amount)
    assert found, amount
    return int(found[1]) * UNITS[found[2]]


def redis_conf(objects: Any) -> dict[str, str]:
    """Redis' configuration, by directive."""
    text: str = objects["ConfigMap", "redis-queue"]["data"]["redis.conf"]
    lines = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


# -- names, and what cannot change

EXPECTED_NAMES = yaml.safe_load((GOLDEN / "names.yaml").read_text(encoding="utf-8"))
IMMUTABLE = yaml.safe_load((GOLDEN / "immutable.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("story", STORIES)
def test_the_names_of_objects_are_unchanged(story):
    """
    golden/names.yaml. Scripts, dashboards and people use the names. A renamed object would appear beside the old one.
    """
    found: dict[str, list[str]] = {}
    for kind, name in sorted(rendered(story)):
        found.setdefault(kind, []).append(name)
    assert found == EXPECTED_NAMES[story]


def immutable(document: Object) -> Object | None:
    """The fields of an object that Kubernetes does not allow to change."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Deployment":
            return {"selector": spec["selector"]}
        case "StatefulSet":
            keep = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
            return {field: spec[field] for field in keep if field in spec}
        case "PersistentVolumeClaim":
            return dict(spec)
        case "Service":
            return {
                "clusterIP": spec.get("clusterIP"),
                "selector": spec["selector"],
            }  # may change, but pods do not follow
    return None


@pytest.mark.parametrize("story", ["default", "large", "replicated", "simulator"])
def test_immutable_fields_are_unchanged(story):
    """
    golden/immutable.yaml. With a difference every user's next `helm upgrade` would fail.
    """
    found = {
        f"{kind}/{name}": part for (kind, name), document in rendered(story).items() if (part := immutable(document))
    }
    assert found == IMMUTABLE[story]


def test_user_labels_do_not_reach_immutable_fields():
    before = rendered("default")
    labels = {"team": "billing"}
    after = render({"commonLabels": labels, "worker": {"podLabels": labels}, "postgres": {"podLabels": labels}})
    for key, document in after.items():
        assert immutable(document) == immutable(before[key]), key


@pytest.mark.parametrize("story", STORIES)
def test_all_pods_have_the_label_that_operators_use(story):
    for (kind, name), document in rendered(story).items():
        if template := template_of(document):
            app = "ifinu-test" if kind == "Pod" else name
            assert template["metadata"]["labels"]["app"] == app, (kind, name)


# -- workers


def test_the_worker():
    objects = rendered("default")
    worker = objects.container("Deployment", "ifinu-worker")
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert worker.spec["args"] == ["worker"]
    assert (config["IFINU_CONCURRENCY"], config["IFINU_RATE_LIMIT"]) == ("10", "50/s")
    assert config["IFINU_RECORDER"] == "false"  # it has a separate Deployment
    pod = objects.pod("Deployment", "ifinu-worker")
    (spread,) = pod["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"] == objects["Deployment", "ifinu-worker"]["spec"]["selector"]
    file = worker.env["IFINU_HEARTBEAT_FILE"]["value"]
    assert file == "/tmp/heartbeat"
    for probe, age in (("readinessProbe", "-mmin -0.5"), ("livenessProbe", "-mmin -2")):
        *shell, script = worker.spec[probe]["exec"]["command"]
        assert shell == ["sh", "-c"]
        assert '"$IFINU_HEARTBEAT_FILE"' in script
        assert age in script
    assert "preStop" not in worker.spec.get("lifecycle", {})  # SIGTERM alone starts a warm shutdown


def test_an_update_starts_a_new_worker_before_it_stops_one():
    strategy = rendered("default")["Deployment", "ifinu-worker"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}


def test_changed_settings_restart_the_pods_that_read_them_and_a_new_password_does_not():
    before, after = rendered("default"), set_to("worker.rateLimit=100/s")
    again = render({"logLevel": "info"})  # new passwords, since there is no cluster to keep them
    for name in ("ifinu-worker", "ifinu-webhook", "ifinu-recorder", "ifinu-metrics", "ifinu-flower"):
        sums = [
            objects["Deployment", name]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for objects in (before, after, again)
        ]
        assert sums[0] != sums[1]
        assert sums[0] == sums[2]
    for name, template in again.templates():
        assert template == dict(before.templates())[name]
    assert again["Secret", "redis-queue"] != before["Secret", "redis-queue"]


def test_there_is_one_recorder_and_one_exporter_and_each_migration_waits_for_the_lock():
    objects = rendered("default")
    assert objects["Deployment", "ifinu-recorder"]["spec"]["replicas"] == 1
    assert objects["Deployment", "ifinu-metrics"]["spec"]["replicas"] == 1
    (migrate,) = objects.pod("Deployment", "ifinu-recorder")["initContainers"]
    assert migrate["args"] == ["migrate"]
    assert [c.name for c in objects.containers() if c.spec.get("args") == ["migrate"]] == [
        "Deployment/ifinu-recorder/migrate"
    ]


def test_any_number_of_schedulers_run_once_they_are_enabled():
    assert ("Deployment", "ifinu-scheduler") not in rendered("default")
    objects = render({"scheduler": {"enabled": True, "replicaCount": 3}})
    assert objects["Deployment", "ifinu-scheduler"]["spec"]["replicas"] == 3
    scheduler = objects.container("Deployment", "ifinu-scheduler")
    assert scheduler.spec["args"] == ["scheduler"]
    assert set(scheduler.env) == {"IFINU_METRICS_PORT", "IFINU_REDIS_PASSWORD", "IFINU_DATABASE_PASSWORD"}


# -- the Evolution API


@pytest.mark.parametrize("story", ["default", "replicated", "simulator"])
def test_the_service_of_the_gateway(story):
    service = rendered(story)["Service", "evolution-api-service"]["spec"]
    assert service["type"] == "ClusterIP"
    assert service["sessionAffinity"] == "ClientIP"
    assert service["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 3600}}
    assert [port["port"] for port in service["ports"]] == [8080]


@pytest.mark.parametrize(
    ("story", "kind", "container"),
    [
        ("default", "StatefulSet", "evolution-api"),
        ("replicated", "Deployment", "evolution-api"),
        ("simulator", "Deployment", "simulator"),
    ],
)
def test_the_gateways_probe_needs_no_internet(story, kind, container):
    gateway = rendered(story).container(kind, "evolution-api", container).spec
    for probe in ("livenessProbe", "readinessProbe"):
        assert gateway[probe]["httpGet"] == {"path": "/manager/", "port": "gateway"}


def test_the_image_of_the_gateway_is_the_last_one_without_a_licence():
    containers = {c.spec["name"]: c.spec["image"] for c in rendered("default").containers() if "StatefulSet" in c.owner}
    assert containers["evolution-api"] == containers["migrate"] == "evoapicloud/evolution-api:v2.3.7"


def test_every_image_is_pinned():
    for story in STORIES:
        for container in rendered(story).containers():
            assert re.search(r":v?\d+(\.\d+)+(-\w+)?$", container.spec["image"]), container.name
            assert container.spec["imagePullPolicy"] == "IfNotPresent"


def test_a_digest_pins_an_image_more_than_its_tag():
    digest = "sha256:" + "0" * 64
    image = set_to(f"image.digest={digest}").container("Deployment", "ifinu-worker").spec["image"]
    assert image == f"ghcr.io/ifinu/ifinu@{digest}"


SHARDED: dict[str, str] = {
    "AUTHENTICATION_EXPOSE_IN_FETCH_INSTANCES": "false",
    "SERVER_TYPE": "http",
    "SERVER_PORT": "8080",
    "SERVER_URL": "http://$(POD_NAME).evolution-api-headless:8080",
    "DATABASE_PROVIDER": "postgresql",
    "DATABASE_CONNECTION_URI": "postgresql://evolution:$(DATABASE_PASSWORD)@evolution-postgres-service:5432/evolution"
    "?schema=public&connection_limit=8&pool_timeout=20",
    "DATABASE_CONNECTION_CLIENT_NAME": "$(POD_NAME)",
    "DATABASE_SAVE_DATA_INSTANCE": "true",
    "DATABASE_SAVE_DATA_NEW_MESSAGE": "true",
    "DATABASE_SAVE_MESSAGE_UPDATE": "true",
    "DATABASE_SAVE_DATA_CONTACTS": "false",
    "DATABASE_SAVE_DATA_CHATS": "false",
    "DATABASE_SAVE_DATA_LABELS": "false",
    "DATABASE_SAVE_DATA_HISTORIC": "false",
    "DATABASE_SAVE_IS_ON_WHATSAPP": "true",
    "DATABASE_SAVE_IS_ON_WHATSAPP_DAYS": "7",
    "CACHE_REDIS_ENABLED": "true",
    "CACHE_REDIS_URI": "redis://:$(CACHE_REDIS_PASSWORD)@redis-queue-service:6379/6",
    "CACHE_REDIS_PREFIX_KEY": "evolution",
    "CACHE_REDIS_TTL": "604800",
    "CACHE_REDIS_SAVE_INSTANCES": "false",
    "CACHE_LOCAL_ENABLED": "false",
    "DEL_INSTANCE": "false",
    "TELEMETRY_ENABLED": "false",
    "LOG_LEVEL": "ERROR,WARN,INFO",
    "LOG_BAILEYS": "error",
    "PROMETHEUS_METRICS": "true",
    "METRICS_AUTH_REQUIRED": "false",
    "METRICS_ALLOWED_IPS": "",
    "TZ": "America/Sao_Paulo",
}
REPLICATED = SHARDED | {
    "SERVER_URL": "http://evolution-api-service:8080",
    "DATABASE_CONNECTION_CLIENT_NAME": "evolution",
}


@pytest.mark.parametrize(
    ("story", "kind", "expected"), [("default", "StatefulSet", SHARDED), ("replicated", "Deployment", REPLICATED)]
)
def test_variables_with_a_wrong_default_in_the_image_are_set(story, kind, expected):
    """
    The image contains a .env with a publicly known key; a variable not set here has its value from there.
    """
    env = rendered(story).container(kind, "evolution-api", "evolution-api").env
    assert {name: env[name]["value"] for name in expected} == expected
    assert env["AUTHENTICATION_API_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "evolution-api", "key": "api-key"}}
    assert int(env["WEBHOOK_REQUEST_TIMEOUT_MS"]["value"]) < 30_000
    # Each instance has its webhook; a global one would deliver every event twice.
    assert env["WEBHOOK_GLOBAL_ENABLED"]["value"] == "false"


@pytest.mark.parametrize("story", STORIES)
def test_variables_are_defined_before_the_ones_that_use_them(story):
    """
    Kubernetes expands only variables defined earlier and leaves others unexpanded.
    """
    for container in rendered(story).containers():
        known: set[str] = set()
        for variable in container.spec.get("env", []):
            assert set(re.findall(r"\$\(([A-Z_]+)\)", variable.get("value", ""))) <= known, variable
            known.add(variable["name"])


def test_a_sharded_gateway_is_pods_that_keep_their_names_and_their_sessions():
    objects = rendered("default")
    gateway = objects["StatefulSet", "evolution-api"]["spec"]
    headless = objects["Service", "evolution-api-headless"]["spec"]
    assert gateway["serviceName"] == "evolution-api-headless"
    assert gateway["podManagementPolicy"] == "OrderedReady"  # each pod migrates, under a lock that waits briefly
    assert headless["clusterIP"] == "None"
    assert headless["selector"] == gateway["selector"]["matchLabels"]
    assert headless["selector"] == objects["Service", "evolution-api-service"]["spec"]["selector"]
    assert [(p["port"], p["targetPort"]) for p in headless["ports"]] == [(8080, "gateway")]  # bypassing the guard
    assert not headless.get("publishNotReadyAddresses", False)
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert config["IFINU_EVOLUTION_URL"] == "http://evolution-api-headless:8080"
    assert config["IFINU_EVOLUTION_SHARDED"] == "true"


def test_a_replicated_gateway_is_one_address():
    objects = rendered("replicated")
    assert ("StatefulSet", "evolution-api") not in objects
    assert ("Service", "evolution-api-headless") not in objects
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert config["IFINU_EVOLUTION_URL"] == "http://evolution-api-service:8080"
    assert config["IFINU_EVOLUTION_SHARDED"] == "false"


def test_other_pods_reach_the_gateway_through_its_guard():
    for story in ("default", "replicated"):
        objects = rendered(story)
        (port,) = objects["Service", "evolution-api-service"]["spec"]["ports"]
        assert port["targetPort"] == "guard"
        conf = objects["ConfigMap", "evolution-guard"]["data"]["guard.conf"]
        assert conf.strip() == (CHART / "files" / "guard.conf").read_text(encoding="utf-8").strip()
    without = set_to("evolution.guard.enabled=false")
    (port,) = without["Service", "evolution-api-service"]["spec"]["ports"]
    assert port["targetPort"] == "gateway"
    assert ("ConfigMap", "evolution-guard") not in without
    assert [c.spec["name"] for c in without.containers() if c.owner == "StatefulSet/evolution-api"] == [
        "migrate",
        "evolution-api",
    ]


def test_a_gateway_gets_its_stop_signal_after_its_sends():
    """
    The gateway has no handler for SIGTERM, and as a container's first process would not even receive it.
    """
    pod = rendered("default").pod("StatefulSet", "evolution-api")
    assert pod["shareProcessNamespace"] is True
    for container in pod["containers"]:
        (_, wait) = container["lifecycle"]["preStop"]["exec"]["command"]
        assert pod["terminationGracePeriodSeconds"] >= int(wait) + 15


def test_the_simulator_replaces_the_gateway():
    objects, real = rendered("simulator"), rendered("default")
    simulator = objects["Deployment", "evolution-api"]["spec"]
    assert (simulator["replicas"], simulator["strategy"]["type"]) == (1, "Recreate")  # its state is in memory
    assert ("StatefulSet", "evolution-api") not in objects
    for name in ("evolution-api-service", "evolution-api-headless"):
        assert objects["Service", name]["spec"]["selector"] == real["Service", name]["spec"]["selector"]
    (port,) = objects["Service", "evolution-api-service"]["spec"]["ports"]
    assert port["targetPort"] == "gateway"
    settings = real["ConfigMap", "ifinu-config"]["data"]
    without_a_phone = {"IFINU_SANDBOX_NUMBER": "77998616740", "IFINU_SENDING_HOLIDAYS": ""}
    assert objects["ConfigMap", "ifinu-config"]["data"] == settings | without_a_phone
    chosen = set_to("simulator.enabled=true", "sandboxNumber=11987654321")["ConfigMap", "ifinu-config"]["data"]
    assert chosen["IFINU_SANDBOX_NUMBER"] == "11987654321"


def test_without_a_sandbox_number_a_message_without_a_phone_is_not_sent():
    assert rendered("default")["ConfigMap", "ifinu-config"]["data"]["IFINU_SANDBOX_NUMBER"] == ""


# -- Redis


def test_the_queue_is_one_pod_on_a_claim():
    objects = rendered("default")
    redis = objects["Deployment", "redis-queue"]["spec"]
    assert redis["replicas"] == 1
    assert redis["strategy"] == {"type": "Recreate"}
    pod = redis["template"]["spec"]
    (data,) = (volume for volume in pod["volumes"] if volume["name"] == "data")
    assert data["persistentVolumeClaim"] == {"claimName": "redis-queue"}
    claim = objects["PersistentVolumeClaim", "redis-queue"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (port,) = objects["Service", "redis-queue-service"]["spec"]["ports"]
    assert port["port"] == 6379


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_the_queue_evicts_nothing_and_stays_within_its_memory(story):
    objects = rendered(story)
    conf = redis_conf(objects)
    redis = objects.container("Deployment", "redis-queue").spec
    assert (conf["appendonly"], conf["appendfsync"]) == ("yes", "everysec")
    assert conf["maxmemory-policy"] == "noeviction"
    assert "maxmemory" not in conf
    assert "requirepass" not in conf
    (script,) = redis["args"]
    assert '--maxmemory "$MAXMEMORY"' in script
    assert '--requirepass "$REDISCLI_AUTH"' in script
    maxmemory = figure({v["name"]: v for v in redis["env"]}["MAXMEMORY"]["value"])
    assert maxmemory <= 0.75 * figure(redis["resources"]["limits"]["memory"])


def test_redis_cli_in_the_pod_needs_no_password():
    """
    `kubectl exec deployment/redis-queue -- redis-cli LLEN ifinu:fila:whatsapp` works as documented.
    """
    redis = rendered("default").container("Deployment", "redis-queue")
    assert redis.env["REDISCLI_AUTH"]["valueFrom"]["secretKeyRef"]["name"] == "redis-queue"
    assert len(rendered("default").pod("Deployment", "redis-queue")["containers"]) == 1
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "redis-cli PING" in redis.spec[probe]["exec"]["command"][-1]


# -- PostgreSQL


def test_the_database():
    objects = rendered("default")
    database = objects["StatefulSet", "evolution-postgres"]["spec"]
    (claim,) = database["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert database["serviceName"] == "evolution-postgres-service"
    (port,) = objects["Service", "evolution-postgres-service"]["spec"]["ports"]
    assert port["port"] == 5432
    postgres = objects.container("StatefulSet", "evolution-postgres")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = postgres.spec[probe]["exec"]["command"]
        assert command[0] == "pg_isready"
        assert "127.0.0.1" in command  # while it creates its databases it listens on its socket only
    data = next(mount["mountPath"] for mount in postgres.spec["volumeMounts"] if mount["name"] == "data")
    assert postgres.env["PGDATA"]["value"].startswith(f"{data}/")  # a new volume has a lost+found


def test_each_database_has_a_separate_role_and_password():
    objects = rendered("default")
    postgres = objects.container("StatefulSet", "evolution-postgres")
    keys = {
        name: postgres.env[name]["valueFrom"]["secretKeyRef"]["key"]
        for name in ("POSTGRES_PASSWORD", "IFINU_PASSWORD", "EVOLUTION_PASSWORD")
    }
    assert keys == {
        "POSTGRES_PASSWORD": "postgres-password",
        "IFINU_PASSWORD": "ifinu-password",
        "EVOLUTION_PASSWORD": "evolution-password",
    }
    secret = objects["Secret", "evolution-postgres"]["data"]
    assert set(secret) == set(keys.values())
    assert len(set(secret.values())) == 3
    scripts = objects["ConfigMap", "evolution-postgres"]["data"]
    (script,) = scripts.values()
    assert scripts.keys() == {"databases.sh"}
    for name, variable in (("ifinu", "IFINU_PASSWORD"), ("evolution", "EVOLUTION_PASSWORD")):
        assert re.search(rf'^ *database {name} "?\$?{{?{variable}\b', script, re.MULTILINE)
    assert [v for v in postgres.spec["volumeMounts"] if v["mountPath"] == "/docker-entrypoint-initdb.d"]
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert config["IFINU_DATABASE_URL"] == "postgresql://ifinu@evolution-postgres-service:5432/ifinu"


# -- the rest of ours


def test_the_webhook():
    objects = rendered("default")
    webhook = objects.container("Deployment", "ifinu-webhook").spec
    (port,) = objects["Service", "ifinu-webhook"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8090, "http")
    assert {p["name"]: p["containerPort"] for p in webhook["ports"]} == {"http": 8090, "metrics": 9464}
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert config["IFINU_WEBHOOK_URL"] == f"http://ifinu-webhook:{port['port']}"
    assert webhook["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert webhook["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_flower_is_read_only_and_its_memory_bounded():
    objects = rendered("default")
    spec = objects["Deployment", "ifinu-flower"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    flower = objects.container("Deployment", "ifinu-flower")
    assert "--max-tasks=10000" in flower.spec["args"]
    assert "--allow-control" not in flower.spec["args"]
    assert flower.env["IFINU_FLOWER_AUTH"]["valueFrom"]["secretKeyRef"]["key"] == "flower-auth"
    (port,) = objects["Service", "ifinu-flower-service"]["spec"]["ports"]
    assert port["port"] == 5555
    assert "--allow-control" in set_to("flower.allowControl=true").container("Deployment", "ifinu-flower").spec["args"]
    behind = set_to("flower.urlPrefix=flower").container("Deployment", "ifinu-flower").spec
    assert "--url-prefix=flower" in behind["args"]
    assert behind["readinessProbe"]["httpGet"]["path"] == "/flower/healthcheck"


@pytest.mark.parametrize("story", STORIES)
def test_no_service_name_makes_a_variable_that_flower_reads(story):
    assert "flower" not in rendered(story).of("Service")
    for owner, template in rendered(story).templates():
        assert template["spec"]["enableServiceLinks"] is False, owner


def test_a_disabled_component_leaves_no_object():
    objects = set_to("flower.enabled=false", "metrics.enabled=false", "networkPolicy.enabled=false")
    assert [name for _, name in objects if "flower" in name or "metrics" in name] == []
    assert objects.of("NetworkPolicy") == {}
    assert "flower-auth" not in objects["Secret", "ifinu-secrets"]["data"]


# -- payments


def test_each_provider_is_asked_for_payments_by_a_job_that_cannot_overlap_itself():
    asked = {"enabled": True, "providers": ["asaas", "mercado_pago"]}
    objects = render({"reconciliation": asked, "webhook": {"payments": {"existingSecret": "payments"}}})
    jobs = {name: job["spec"] for (kind, name), job in objects.items() if kind == "CronJob"}
    assert list(jobs) == ["ifinu-reconciliation-asaas", "ifinu-reconciliation-mercado-pago"]
    for spec in jobs.values():
        assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == ("Forbid", 3600)
        assert (spec["schedule"], spec["timeZone"]) == ("23 6 * * *", "America/Sao_Paulo")
        job = spec["jobTemplate"]["spec"]
        assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (1800, 1)
        assert job["template"]["spec"]["restartPolicy"] == "Never"
    container = objects.container("CronJob", "ifinu-reconciliation-mercado-pago")
    assert container.spec["args"] == ["pay", "reconcile", "--provider=mercado_pago", "--since=3d"]
    assert container.env["IFINU_PAYMENT_SECRETS_FILE"] == {
        "name": "IFINU_PAYMENT_SECRETS_FILE", "value": "/etc/ifinu/payments/payments.json",
    }  # fmt: skip
    volumes = objects.pod("CronJob", "ifinu-reconciliation-asaas")["volumes"]
    assert {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume} == {
        "payments": "payments"
    }
    assert volumes[-1] in objects.pod("Deployment", "ifinu-webhook")["volumes"]
    assert [name for _, name in rendered("default") if "reconciliation" in name] == []


# -- backups


def test_backups():
    objects = rendered("large")
    backup = objects["CronJob", "ifinu-backup"]["spec"]
    assert backup["concurrencyPolicy"] == "Forbid"
    assert (backup["timeZone"], backup["schedule"]) == ("America/Sao_Paulo", "17 3 * * *")
    assert backup["startingDeadlineSeconds"] == 3600
    container = objects.container("CronJob", "ifinu-backup")
    env = container.env
    assert container.spec["args"] == ["backup"]
    assert (env["IFINU_BACKUP_STORE"]["value"], env["IFINU_BACKUP_KEEP_DAYS"]["value"]) == ("/backups", "14")
    assert {m["mountPath"] for m in container.spec["volumeMounts"]} == {"/tmp", "/backups"}
    assert env["IFINU_EVOLUTION_DATABASE_URL"]["value"].endswith("@evolution-postgres-service:5432/evolution")
    claim = objects["PersistentVolumeClaim", "ifinu-backup"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert [name for _, name in rendered("default") if "backup" in name or "restore" in name] == []


def test_backups_in_a_store():
    keys = {"url": "s3://example/ifinu", "endpoint": "https://minio.example.com:9000", "existingSecret": "store"}
    values = {"backup": {"enabled": True, "persistence": {"enabled": False}, "s3": {**keys, "region": "sa-east-1"}}}
    objects = render(values)
    for name in ("ifinu-backup", "ifinu-restore", "ifinu-restore-drill"):
        container = objects.container("CronJob", name)
        env = container.env
        assert env["IFINU_BACKUP_STORE"]["value"] == "s3://example/ifinu"
        assert env["AWS_ENDPOINT_URL_S3"]["value"] == "https://minio.example.com:9000"
        assert env["AWS_REGION"]["value"] == "sa-east-1"
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert env[key]["valueFrom"]["secretKeyRef"] == {"name": "store", "key": key}
        assert "backups" not in [m["name"] for m in container.spec["volumeMounts"]]
    assert ("PersistentVolumeClaim", "ifinu-backup") not in objects


def test_a_restore_runs_only_on_request():
    restore = rendered("large")["CronJob", "ifinu-restore"]["spec"]
    assert restore["suspend"] is True
    container = rendered("large").container("CronJob", "ifinu-restore")
    assert container.spec["args"] == ["restore", "latest", "--yes"]
    chosen = set_to("backup.enabled=true", "backup.restore.name=2026-01-01T03-17-00Z", "backup.restore.replace=true")
    assert chosen.container("CronJob", "ifinu-restore").spec["args"] == [
        *("restore", "2026-01-01T03-17-00Z", "--yes", "--replace")
    ]


def test_the_drill_restores_into_temporary_servers():
    pod = rendered("large").pod("CronJob", "ifinu-restore-drill")
    assert {c["name"]: c["restartPolicy"] for c in pod["initContainers"]} == {"postgres": "Always", "redis": "Always"}
    drill = rendered("large").container("CronJob", "ifinu-restore-drill", "drill")
    targets = [argument for argument in drill.spec["args"] if "://" in argument]
    assert len(targets) == 3
    assert all("@127.0.0.1:" in target or "//127.0.0.1:" in target for target in targets)
    # It has no credentials of the production servers.
    assert {name for name in drill.env if name.startswith("IFINU_")} == {"IFINU_BACKUP_STORE", "IFINU_BACKUP_KEEP_DAYS"}
    images = {c["name"]: c["image"] for c in pod["initContainers"]}
    assert images["postgres"] == rendered("large").container("StatefulSet", "evolution-postgres").spec["image"]
    assert images["redis"] == rendered("large").container("Deployment", "redis-queue").spec["image"]


def test_helm_test_runs_the_doctor():
    pod = rendered("default")["Pod", "ifinu-test-doctor"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert [c["args"] for c in pod["spec"]["containers"]] == [["doctor", "--wait"]]


# -- servers outside


def test_all_three_servers_may_be_external():
    objects = rendered("external")
    names = {name for _, name in objects}
    assert not names & {"redis-queue", "redis-queue-service", "evolution-postgres", "evolution-postgres-service"}
    assert not names & {"evolution-api", "evolution-api-service", "evolution-api-headless", "evolution-api-hpa"}
    config = objects["ConfigMap", "ifinu-config"]["data"]
    assert config["IFINU_REDIS_URL"] == "rediss://ifinu@queue.example.com:6380/1"
    assert config["IFINU_DATABASE_URL"] == "postgresql://ifinu@db.example.com:5432/ifinu?sslmode=require"
    assert config["IFINU_EVOLUTION_URL"] == "https://evolution.example.com"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"existingSecret": "queue"}, "rediss://user:$(CACHE_REDIS_PASSWORD)@queue.example.com:6380/6"),
        ({}, "rediss://user@queue.example.com:6380/6"),
    ],
)
def test_the_charts_gateway_may_use_external_servers(auth, expected):
    """
    Without a password nothing refers to a Secret, which might be a leftover.
    """
    outside = {
        "redis": {"external": {"enabled": True, "url": "rediss://user@queue.example.com:6380/1"}, "auth": auth},
        "postgres": {
            "external": {
                "enabled": True,
                "url": "postgresql://ifinu@db.example.com/ifinu",
                "evolutionUrl": "postgresql://evolution@db.example.com/evolution?sslmode=require",
            },
            "auth": {"existingSecret": "db"},
        },
    }
    objects = render(outside)
    env = objects.container("StatefulSet", "evolution-api", "evolution-api").env
    assert env["CACHE_REDIS_URI"]["value"] == expected
    assert ("CACHE_REDIS_PASSWORD" in env) == bool(auth)
    assert env["DATABASE_CONNECTION_URI"]["value"] == (
        "postgresql://evolution:$(DATABASE_PASSWORD)@db.example.com/evolution?sslmode=require"
        "&schema=public&connection_limit=8&pool_timeout=20"
    )
    assert ("IFINU_REDIS_PASSWORD" in objects.container("Deployment", "ifinu-worker").env) == bool(auth)
    assert "redis-queue" not in objects.of("Secret")
    chosen = {**outside["redis"]["external"], "evolutionUrl": "redis://cache.example.com:6379/2"}
    again = render({**outside, "redis": {"external": chosen}}).container(
        "StatefulSet", "evolution-api", "evolution-api"
    )
    assert again.env["CACHE_REDIS_URI"]["value"] == "redis://cache.example.com:6379/2"


def test_an_external_gateway_may_be_sharded_too():
    values = {
        "evolution": {
            "external": {"enabled": True, "url": "http://gateways.other.svc:8080", "sharded": True},
            "apiKey": {"existingSecret": "gateway"},
        }
    }
    config = render(values)["ConfigMap", "ifinu-config"]["data"]
    assert (config["IFINU_EVOLUTION_SHARDED"], config["IFINU_EVOLUTION_URL"]) == (
        *("true", "http://gateways.other.svc:8080"),
    )


def test_an_existing_claim_is_used():
    objects = set_to(
        "redis.persistence.existingClaim=old", "backup.enabled=true", "backup.persistence.existingClaim=tape"
    )
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, template in objects.templates()
        for volume in template["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"old", "tape"}
    assert objects.of("PersistentVolumeClaim") == {}


@pytest.mark.parametrize(("chosen", "expected"), [("", None), ("ssd", "ssd"), ("-", "")])
def test_the_class_of_a_volume(chosen, expected):
    keys = ("redis.persistence", "postgres.persistence", "backup.persistence", "evolution.persistence")
    objects = set_to(
        *(f"{key}.storageClass={chosen}" for key in keys), "backup.enabled=true", "evolution.persistence.enabled=true"
    )
    claims = [claim["spec"] for claim in objects.of("PersistentVolumeClaim").values()]
    claims += [c["spec"] for s in objects.of("StatefulSet").values() for c in s["spec"]["volumeClaimTemplates"]]
    assert [claim.get("storageClassName") for claim in claims] == [expected] * 4

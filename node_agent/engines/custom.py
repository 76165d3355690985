"""Any server that speaks HTTP: an image or a command of the deployment's own, which is told where to listen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.engines import launch
from node_agent.engines.diagnosis import diagnose
from node_agent.engines.engine import Diagnosis, EngineSpec, LaunchPlan, Probe

HEALTH_PATH = "/health"
INFERENCE_PATH = "/v1/inference"
_START_S = 300.0


@dataclass(frozen=True, slots=True)
class Custom:
    """Learns its address from `AIOPS_HOST` and `AIOPS_PORT`, or from `{host}` and `{port}` in its command."""

    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "custom"
    more_ports: tuple[str, ...] = ()

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        """Ready when its health path answers: what a real request looks like, nobody knows."""
        program = spec.program
        told = {
            "host": spec.host,
            "port": str(spec.port),
            "model_dir": str(spec.model_dir),
            "model_name": spec.served_name,
            "run_dir": str(spec.run_dir),
        }
        health = Probe("GET", launch.origin(spec) + (program.health_path or HEALTH_PATH))
        return LaunchPlan(
            argv=tuple(_filled(word, told) for word in program.command),
            env=launch.inherited(self.environment)
            | {f"AIOPS_{name.upper()}": value for name, value in told.items()}
            | {"HOME": str(spec.run_dir), "PYTHONUNBUFFERED": "1"}
            | launch.visible_devices(spec)
            | dict(spec.environment),
            cwd=spec.run_dir,
            health=health,
            ready=health,
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=program.inference_path or INFERENCE_PATH,
            unsupported_fields=(),
            directories=(spec.run_dir,),
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        return diagnose(returncode, log_tail)


def _filled(word: str, told: Mapping[str, str]) -> str:
    """The word with its placeholders filled; any other braces are the program's own."""
    for name, value in told.items():
        word = word.replace(f"{{{name}}}", value)
    return word

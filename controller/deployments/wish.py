"""What is asked of a new deployment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.deployments.workload import Adapter, EngineOptions, Program
from controller.models.model import Framework, Model
from controller.nodes.model import NodeId
from controller.placement.model import NO_OPTIONS, Options
from mesh.errors import FieldViolation, InvalidRequestError


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a new deployment: a model by id or name, and where it should go; what is empty is left open."""

    model: str
    node_id: NodeId | None = None
    gpu_devices: tuple[str, ...] = ()
    port: int = 0
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Program = field(default_factory=Program)
    options: Options = NO_OPTIONS
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    # Number or digest of the model's revision; empty is the current one.
    model_revision: str = ""
    adapters: tuple[Adapter, ...] = ()

    def check(self, model: Model) -> None:
        """InvalidRequestError for what this model can never do."""
        violations = []
        most = model.architecture.context if model.architecture else 0
        if most and self.options.context > most:
            violations.append(FieldViolation("context_tokens", f"must be at most {most}, the context of {model.name}"))
        if self.gpu_devices and self.options.gpu_count not in (0, len(self.gpu_devices)):
            violations.append(FieldViolation("gpu_count", "must be the number of devices that gpu_device names"))
        if self.program != Program() and model.framework is not Framework.CUSTOM:
            violations.append(
                FieldViolation(
                    "command",
                    f"{model.name} is of framework {model.framework.value}; only "
                    "models of framework custom run a command of their own",
                )
            )
        if violations:
            raise InvalidRequestError(*violations)

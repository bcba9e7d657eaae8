"""Several processes as one: start-up from a launcher's environment, collectives, and the parallel model.

Every function works without a launcher too (one process), so callers need no second code path.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from labelenc.config import ConfigError

# Rank 0 may score a large data set while the others wait for it.
TIMEOUT = timedelta(minutes=60)
_LAUNCHER_VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")
# Newer PyTorch renames the option and warns of the old name.
_BUFFER_OPTION = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


@dataclass(frozen=True)
class Peer:
    """Where a process runs: a name of the machine and, in it, the process id."""

    machine: str
    pid: int


@dataclass(frozen=True)
class Process:
    """This process: ``rank`` of ``world_size``, ``local_rank`` on its machine, and its device.

    ``peers`` are all processes, this one included, by rank; empty without a process group.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    peers: tuple[Peer, ...] = ()


def setup_distributed(device: str) -> Process:
    """Join the process group that the environment describes, or stay alone where it describes none.

    Reads ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``MASTER_*`` as ``torchrun`` and
    ``torch.distributed.launch`` set them. Tensors travel by gloo on CPU and by nccl between GPUs.

    Args:
        device: ``"cpu"``, ``"cuda"`` (each process takes the GPU of its local rank) or, for a single
            process, ``"cuda:N"``.

    Raises:
        ConfigError: CUDA is asked for and missing, has too few GPUs, or the environment is incomplete.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0")) if world_size > 1 else 0
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if world_size > 1 else 0
    chosen = _choose_device(device, local_rank, world_size)
    if world_size > 1:
        missing = [name for name in _LAUNCHER_VARIABLES if name not in os.environ]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set. Start with "
                f"'torchrun --nproc_per_node={world_size} …', or unset WORLD_SIZE to run one process."
            )
        # Python objects then travel through host memory even on GPU machines.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        _join(backend)
    peers = tuple(all_gather_objects(_this_peer())) if world_size > 1 else ()
    return Process(rank, world_size, local_rank, chosen, peers)


def _join(backend: str) -> None:
    """Make the process group, whether for the first time or after ``torchrun --max-restarts``.

    On one machine torchrun keeps its store over restarts. Processes would find the addresses of those that
    ended there, and wait for them. So each attempt has keys of its own. (Restarts are counted per machine.)
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        dist.init_process_group(backend, timeout=TIMEOUT)
        return
    store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(f"attempt_{restarts}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)


def _this_peer() -> Peer:
    machine = socket.gethostname()
    # Containers count their processes each by itself, and may have one host name.
    with contextlib.suppress(OSError):
        machine += f" {Path('/proc/self/ns/pid').readlink()}"
    return Peer(machine, os.getpid())


def _choose_device(device: str, local_rank: int, world_size: int) -> torch.device:
    chosen = torch.device(device)
    if chosen.type == "cpu":
        return chosen
    if chosen.type != "cuda":
        raise ConfigError(f"MODEL.DEVICE is {device!r}; write 'cuda' or 'cpu'.")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {device!r} but PyTorch {torch.__version__} sees no usable GPU here. Append "
            "'MODEL.DEVICE cpu' to the command to run on the CPU, or install a driver and PyTorch for CUDA."
        )
    index = local_rank if chosen.index is None or world_size > 1 else chosen.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"this process wants GPU {index} but the machine has {torch.cuda.device_count()}. "
            "Lower --nproc_per_node, or check CUDA_VISIBLE_DEVICES."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def close_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def get_rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one process that writes files and speaks."""
    return get_rank() == 0


def all_gather_objects(obj: Any) -> list[Any]:
    """The objects of all processes, in rank order, on every process. Objects must pickle."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def gather_objects(obj: Any) -> list[Any] | None:
    """The objects of all processes, in rank order, on rank 0; None elsewhere."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] | None = [None] * get_world_size() if is_main() else None
    dist.gather_object(obj, gathered)
    return gathered


def broadcast_object(obj: Any) -> Any:
    """Rank 0's object, on every process; what the others pass is ignored."""
    if get_world_size() == 1:
        return obj
    holder = [obj]
    dist.broadcast_object_list(holder)
    return holder[0]


def on_main(task: Callable[[], Any]) -> Any:
    """What ``task`` returns on rank 0, or the error that it raises there, on every process.

    Without this an error on rank 0 alone would leave the others waiting.
    """
    outcome: Any = None
    if is_main():
        try:
            outcome = (task(), None)
        except Exception as error:
            outcome = (None, error)
    result, failure = broadcast_object(outcome)
    if failure is not None:
        raise failure
    return result


def reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of each scalar over the processes, by one all-reduce of all of them.

    Args:
        values: scalar tensors of one device; every process passes the same names.

    Returns:
        The same names in the same order; float32 scalars without gradient.
    """
    if not values:
        return {}
    # Sorted, because the order of insertion may differ between processes.
    names = sorted(values)
    stacked = torch.stack([values[name].detach().float().reshape(()) for name in names])
    if get_world_size() > 1:
        dist.all_reduce(stacked)
        stacked /= get_world_size()
    means = dict(zip(names, stacked.unbind(), strict=True))
    return {name: means[name] for name in values}


def broadcast_batch_norm(model: nn.Module) -> None:
    """Give every process rank 0's running batch-norm statistics, so that all of them evaluate one model."""
    if get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for buffer in module.buffers(recurse=False):
                dist.broadcast(buffer, src=0)


class ParallelModel:
    """Calls a model so that gradients come out averaged over all processes.

    Owns the only data-parallel wrapper, so ``.model`` is always the bare model. The wrapper is made anew
    whenever the set of trainable parameters has changed since the last call: schedules freeze and thaw
    parts of the model at known iterations, and a wrapper made before would wait for gradients that never
    come. All processes must change the flags at the same call.

    Call it for training only (one forward, one backward), and keep it until the backward pass is done: the
    wrapper that averages the gradients goes with it. Evaluate with ``.model``. Gradients are views of the
    wrapper's buckets, so set them to None rather than to zero.
    """

    def __init__(self, model: nn.Module, process: Process) -> None:
        self.model = model
        self._process = process
        self._wrapper: DistributedDataParallel | None = None
        self._flags: tuple[bool, ...] | None = None
        self._synchronised = True
        # Frozen statistics never differ; running ones do, and rank 0's are those that get saved.
        self._broadcast_buffers = any(
            isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output; back-propagating from it averages gradients over the processes."""
        if self._process.world_size == 1:
            return self.model(*args, **kwargs)
        flags = tuple(parameter.requires_grad for parameter in self.model.parameters())
        if flags != self._flags:
            self._wrap(flags)
        if self._wrapper is None:
            return self.model(*args, **kwargs)
        with contextlib.nullcontext() if self._synchronised else self._wrapper.no_sync():
            return self._wrapper(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of calls inside stay with each process, to be averaged by the next call outside.

        That call must have the same trainable parameters.
        """
        self._synchronised = False
        try:
            yield
        finally:
            self._synchronised = True

    def _wrap(self, flags: tuple[bool, ...]) -> None:
        self._wrapper = None
        # The old wrapper's hooks on the parameters live until it is collected.
        gc.collect()
        if any(flags):
            device_ids = [self._process.device.index] if self._process.device.type == "cuda" else None
            options: dict[str, Any] = {
                _BUFFER_OPTION: self._broadcast_buffers,
                "gradient_as_bucket_view": True,
            }
            self._wrapper = DistributedDataParallel(self.model, device_ids=device_ids, **options)
        self._flags = flags

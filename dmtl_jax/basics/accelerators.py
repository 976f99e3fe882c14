"""Accelerators to compile for on a machine without one: their names, sizes and speeds, and how to compile.

libtpu compiles for TPUs and JAX's CUDA plugin for GPUs; both need only a CPU.
"""

import dataclasses
import os
from typing import Any

from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A number of equal chips, with the maker's figures.

  Attributes:
    platform: 'tpu' or 'gpu'.
    memory: bytes per device.
    half, single: FLOP/s of matrix products of 16-bit numbers, summed in float32 (which GeForce cards do at half their
      advertised rate), and of float32 numbers, as JAX multiplies these by default: in bfloat16 on TPUs, in TF32 on
      newer GPUs.
    bandwidth: bytes per second between memory and chip.
    count: devices.
    interconnect: bytes per second that the device with the fewest links to others can send; 0 for one device.
    target: how the compiler identifies it: arguments of `get_topology_desc`, or values of a `GpuTargetConfigProto`.
  """

  platform: str
  memory: float
  half: float
  single: float
  bandwidth: float
  count: int = 1
  interconnect: float = 0.0
  target: Any = None


def _tpu(
  memory: int, flops: float, bandwidth: float, count: int, interconnect: float, topology: str, **more
) -> Accelerator:
  target = dict(topology_name=topology, **more)
  return Accelerator('tpu', memory * 2**30, flops, flops, bandwidth, count, interconnect, target)


def _gpu(name: str, memory: float, half: float, single: float, bandwidth: float, **target) -> Accelerator:
  return Accelerator('gpu', memory, half, single, bandwidth, target=target | {'name': name})


ONE_CHIP = (1, 1, 1)  # of one host
FOUR_CHIPS = (2, 2, 1)
EIGHT_CHIPS = (2, 4, 1)
# Bytes per second that a link to a neighbour carries one way: the maker's figure for a chip, over both directions and
# its links. A corner of a slice has two links, but four in a v5e pod of 256, which closes to a torus.
V4_LINK = V5E_LINK = 50e9
V5P_LINK = V6E_LINK = 100e9
ACCELERATORS = {
  'v4-8': _tpu(32, 275e12, 1228e9, 4, 2 * V4_LINK, 'v4:2x2x1', chip_config_name='megacore'),
  'v5e-1': _tpu(16, 197e12, 819e9, 1, 0, 'v5e:1x1', chips_per_host_bounds=ONE_CHIP),
  'v5e-8': _tpu(16, 197e12, 819e9, 8, 2 * V5E_LINK, 'v5e:2x4', chips_per_host_bounds=EIGHT_CHIPS),
  'v5e-64': _tpu(16, 197e12, 819e9, 64, 2 * V5E_LINK, 'v5e:8x8', chips_per_host_bounds=FOUR_CHIPS),
  'v5e-256': _tpu(16, 197e12, 819e9, 256, 4 * V5E_LINK, 'v5e:16x16', chips_per_host_bounds=FOUR_CHIPS),
  'v5p-8': _tpu(95, 459e12, 2765e9, 4, 2 * V5P_LINK, 'v5p:2x2x1'),
  'v6e-1': _tpu(32, 918e12, 1640e9, 1, 0, 'v6e:1x1', chips_per_host_bounds=ONE_CHIP),
  'v6e-8': _tpu(32, 918e12, 1640e9, 8, 2 * V6E_LINK, 'v6e:2x4', chips_per_host_bounds=EIGHT_CHIPS),
  't4': _gpu(
    'Tesla T4', 15.8e9, 65e12, 8.1e12, 320e9,
    major=7, minor=5, cores=40, threads=1024, shared=65536, l2=4 << 20, ghz=1.59,
  ),
  'rtx3060': _gpu(
    'NVIDIA GeForce RTX 3060', 12.6e9, 25.5e12, 12.7e12, 360e9,
    major=8, minor=6, cores=28, threads=1536, shared=102400, l2=3 << 20, ghz=1.78,
  ),
  'rtx3090': _gpu(
    'NVIDIA GeForce RTX 3090', 25.4e9, 71e12, 35.6e12, 936e9,
    major=8, minor=6, cores=82, threads=1536, shared=102400, l2=6 << 20, ghz=1.70,
  ),
  'rtx4090': _gpu(
    'NVIDIA GeForce RTX 4090', 25.4e9, 165.2e12, 82.6e12, 1008e9,
    major=8, minor=9, cores=128, threads=1536, shared=102400, l2=72 << 20, ghz=2.52,
  ),
  'rtx5090': _gpu(
    'NVIDIA GeForce RTX 5090', 33.7e9, 209.5e12, 104.8e12, 1792e9,
    major=12, minor=0, cores=170, threads=1536, shared=102400, l2=96 << 20, ghz=2.41,
  ),
  'a100': _gpu(
    'NVIDIA A100-SXM4-40GB', 42.3e9, 312e12, 156e12, 1555e9,
    major=8, minor=0, cores=108, threads=2048, shared=167936, l2=40 << 20, ghz=1.41,
  ),
  'h100': _gpu(
    'NVIDIA H100 80GB HBM3', 85e9, 989e12, 494e12, 3352e9,
    major=9, minor=0, cores=132, threads=2048, shared=233472, l2=50 << 20, ghz=1.98,
  ),
}  # fmt: skip
# Without a GPU to try them on, XLA finds no tiles for some of the products that it fuses.
GPU_OPTIONS = {'xla_gpu_enable_triton_gemm': False}
# So that libtpu does not look for a TPU, lock it for this process or warn that there is none. JAX's cache is off since
# it can write programs for absent devices but not read them back.
ENVIRONMENT = dict(
  JAX_PLATFORMS='cpu', JAX_ENABLE_COMPILATION_CACHE='false', TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  TPU_WORKER_HOSTNAMES='localhost', TPU_ACCELERATOR_TYPE='v5litepod-1',
)  # fmt: skip
INSTALL = {'tpu': "pip install 'dmtl_jax[tpu]'", 'gpu': "pip install 'dmtl_jax[cuda13]'"}


def find(name: str) -> Accelerator:
  """The accelerator that --for names; raises UserError, which suggests the closest name, if there is none."""
  if name not in ACCELERATORS:
    raise unknown_value_error('--for', name, ACCELERATORS)
  return ACCELERATORS[name]


def prepare():
  """Makes JAX run on the CPU and libtpu only compile; to be called before JAX is imported."""
  os.environ.update(ENVIRONMENT)


def devices(name: str) -> list:
  """The accelerator's devices, only to compile for; raises UserError if nothing here compiles for them."""
  from jax.experimental import topologies  # not above: mistakes in the flags are found before JAX is imported

  chosen = find(name)
  try:
    if chosen.platform == 'tpu':
      return topologies.get_topology_desc(platform='tpu', **chosen.target).devices
    config = _gpu_config(chosen)
    return topologies.get_topology_desc(platform='cuda', target_config=config, topology='1x1x1').devices
  except Exception as error:  # its type depends on platform and version
    reason = sanitize(str(error).split('\n')[0], 200)
    if 'not installed' in reason or isinstance(error, NotImplementedError):  # what JAX says of TPUs, and of GPUs
      raise UserError(f'--for={name}: what compiles for it is not installed; {INSTALL[chosen.platform]}') from error
    raise UserError(f'--for={name}: what compiles for it does not start: {reason}') from error


def _gpu_config(chosen: Accelerator) -> str:
  """A `GpuTargetConfigProto` as text: what XLA would ask a GPU that is here."""
  target = chosen.target
  return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 fpus_per_core: 64
      shared_memory_per_core: {target['shared']} shared_memory_per_block_optin: {target['shared'] - 1024}
      threads_per_core_limit: {target['threads']} core_count: {target['cores']}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      memory_bandwidth: {chosen.bandwidth:.0f} device_memory_size: {chosen.memory:.0f}
      l2_cache_size: {target['l2']} clock_rate_ghz: {target['ghz']}
      cuda_compute_capability {{ major: {target['major']} minor: {target['minor']} }}
      device_vendor: "NVIDIA Corporation" name: "{target['name']}" device_address_bits: 64
      driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0" dnn_version: "9.10.0"
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{target['name']}"
  """

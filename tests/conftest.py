"""Settings that must be in place before JAX starts."""

import os

# Eight simulated devices, for the tests of sharding.
_DEVICES = '--xla_force_host_platform_device_count=8'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'

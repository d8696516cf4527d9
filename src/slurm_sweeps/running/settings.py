"""Settings of libraries that decide what numbers come out, carried from the driver to the trials.

Most are set at a script's top level or in its `main()`, which trials may not run:
`torch.set_default_dtype(torch.float64)`, `jax.config.update("jax_enable_x64", True)`. Silently
other than by hand a trial would compute in 32 bits. So what differs from a library's own default
in the driver when it begins is set again where `train` is loaded. Random numbers are not among it:
see `forking`.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """One setting of a library."""

    module: str
    name: str  # what it is called in messages
    read: Callable[[Any], Any]  # takes the module; returns what can be pickled without it
    write: Callable[[Any, Any], object]  # takes the module, and what was read
    usual: Any  # what it is where nobody has set it


def _flag(module: str, path: str, usual: Any) -> Setting:
    """Return a setting that is an attribute."""
    parent, _, name = path.rpartition(".")

    def write(library: Any, value: Any) -> None:
        setattr(attrgetter(parent)(library), name, value)

    return Setting(module, path, attrgetter(path), write, usual)


def _pair(module: str, getter: str, setter: str, usual: Any) -> Setting:
    """Return a setting that one function reads and another sets."""
    return Setting(
        module,
        setter,
        lambda library: attrgetter(getter)(library)(),
        lambda library, value: attrgetter(setter)(library)(value),
        usual,
    )


def _jax(name: str, usual: Any) -> Setting:
    return Setting(
        "jax",
        name,
        lambda jax: getattr(jax.config, name),
        lambda jax, value: jax.config.update(name, value),
        usual,
    )


def _pandas(name: str) -> Setting:
    """Return an option of pandas, whose own default depends on its version.

    It is read where `get_option` finds it: that warns, of options that are soon to go, somebody who
    may never have heard of them; and warnings can't be held back for one thread alone.
    """

    def read(pandas: Any) -> Any:
        config = pandas._config.config
        options, key = config._get_root(name)
        return None if options[key] == config._registered_options[name].defval else options[key]

    return Setting("pandas", name, read, lambda pandas, value: pandas.set_option(name, value), None)


_LOCALE = ("LC_NUMERIC", "LC_COLLATE", "LC_MONETARY", "LC_TIME")

SETTINGS = (
    Setting(
        "torch",
        "set_default_dtype",
        lambda torch: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda torch, name: torch.set_default_dtype(getattr(torch, name)),
        "float32",
    ),
    Setting(
        "torch",
        "set_default_device",
        lambda torch: str(torch.get_default_device()),
        lambda torch, name: torch.set_default_device(name),
        "cpu",
    ),
    Setting(
        "torch",
        "use_deterministic_algorithms",
        lambda torch: torch.get_deterministic_debug_mode(),
        lambda torch, mode: torch.set_deterministic_debug_mode(mode),
        0,
    ),
    _pair("torch", "get_float32_matmul_precision", "set_float32_matmul_precision", "highest"),
    _pair("torch", "is_grad_enabled", "set_grad_enabled", True),
    _flag("torch", "backends.cudnn.benchmark", False),
    _flag("torch", "backends.cudnn.deterministic", False),
    _flag("torch", "backends.cudnn.allow_tf32", True),
    _jax("jax_enable_x64", False),
    _jax("jax_default_matmul_precision", None),
    _jax("jax_default_prng_impl", "threefry2x32"),
    _jax("jax_numpy_dtype_promotion", "standard"),
    _jax("jax_numpy_rank_promotion", "allow"),
    _jax("jax_debug_nans", False),
    _jax("jax_disable_jit", False),
    Setting(
        "numpy",
        "seterr",
        lambda numpy: numpy.geterr(),
        lambda numpy, how: numpy.seterr(**how),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    Setting(
        "decimal",
        "getcontext().prec, .rounding",
        lambda decimal: (decimal.getcontext().prec, decimal.getcontext().rounding),
        lambda decimal, two: decimal.setcontext(decimal.Context(prec=two[0], rounding=two[1])),
        (28, "ROUND_HALF_EVEN"),
    ),
    _pair("keras", "config.floatx", "config.set_floatx", "float32"),
    _pair("keras", "config.epsilon", "config.set_epsilon", 1e-7),
    _pair("keras", "config.image_data_format", "config.set_image_data_format", "channels_last"),
    Setting(
        "keras",
        "config.set_dtype_policy",
        lambda keras: keras.config.dtype_policy().name,
        lambda keras, name: keras.config.set_dtype_policy(name),
        "float32",
    ),
    Setting(
        "sklearn",
        "set_config",
        lambda sklearn: {
            name: value
            for name, value in sklearn.get_config().items()
            if name in ("transform_output", "assume_finite", "enable_metadata_routing")
        },
        lambda sklearn, options: sklearn.set_config(**options),
        {"transform_output": "default", "assume_finite": False, "enable_metadata_routing": False},
    ),
    _pandas("mode.copy_on_write"),
    _pandas("future.infer_string"),
    _pandas("mode.chained_assignment"),
    _pair("sys", "getrecursionlimit", "setrecursionlimit", 1000),
    Setting(
        "multiprocessing",
        "set_start_method",
        lambda multiprocessing: multiprocessing.get_start_method(allow_none=True),
        lambda multiprocessing, method: multiprocessing.set_start_method(method, force=True),
        None,
    ),
    Setting(
        "locale",
        "setlocale",
        lambda locale: [locale.setlocale(getattr(locale, kind)) for kind in _LOCALE],
        lambda locale, names: [
            locale.setlocale(getattr(locale, kind), name)
            for kind, name in zip(_LOCALE, names, strict=True)
        ],
        ["C"] * len(_LOCALE),
    ),
)


def read_settings() -> dict[int, Any]:
    """Return what is set otherwise than usual in this process, by number in `SETTINGS`."""
    found = {}
    for number, setting in enumerate(SETTINGS):
        library = sys.modules.get(setting.module)
        if library is not None:
            with contextlib.suppress(Exception):  # another version of it has no such setting
                value = setting.read(library)
                if value != setting.usual:
                    found[number] = value
    return found


def apply_settings(found: dict[int, Any]) -> list[str]:
    """Set what another process has read; return what is to be said of it."""
    problems = []
    for number, value in found.items():
        setting = SETTINGS[number]
        try:
            library = importlib.import_module(setting.module)
            if setting.read(library) != value:
                setting.write(library, value)
        except Exception as error:  # noqa: BLE001 - a library may raise anything
            problems.append(
                f"the script's setting {setting.module}.{setting.name} = {value!r} can't be made "
                f"for trials ({type(error).__name__}: {error}): make it inside train"
            )
    return problems

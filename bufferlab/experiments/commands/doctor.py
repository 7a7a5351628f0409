"""``bufferlab doctor``: what is installed and what really works."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import print_json
from bufferlab.experiments.commands.common.registry import command

if TYPE_CHECKING:
    from bufferlab.experiments.runs.remedies import Report


@command(place=130, example="bufferlab doctor")
def doctor(as_json: JsonOption = False) -> None:
    """What is installed, which transports really work here, and the exact command that mends what is missing."""
    from bufferlab.experiments.runs.diagnosis import examine

    found = examine(lambda step: print(f"checking {step} ...", file=sys.stderr))
    if as_json:
        print_json(found)
    else:
        print(report_text(found))
    raise typer.Exit(DONE if found["simulator"]["works"] else CHECK_FAILED)


def report_text(found: Report) -> str:
    """The report for a terminal."""
    from bufferlab.experiments.text import table

    rows = [("what", "state")]
    rows.append(("python", found["python"]))
    for name, version in found["packages"].items():
        absent = "not installed, runs from source" if name == "bufferlab" else "MISSING"
        rows.append((name, version or absent))
    for name, version in found["mooncake_wheels"].items() or [("mooncake", "MISSING")]:
        rows.append((name, str(version)))
    for package, loads in found["system_libraries"].items():
        rows.append((package, "loads" if loads else "MISSING"))
    rows.append(("RDMA devices", ", ".join(found["rdma_devices"]) or "none"))
    host = found["host"]
    lines = [table(rows), "", f"host: {host['cpu']}, {host['cpus']} CPUs, {host['memory_bytes'] / 2**30:.0f} GiB", ""]
    lines.append(_state("simulator", found["simulator"]))
    lines.append(f"cores: {'compiled' if found['compiled'] else 'interpreted: ' + found['interpreted_because']}")
    lines.append(_state("Mooncake imports", found["mooncake_imports"]))
    for name, result in found["transports"].items():
        lines.append(_state(f"real transfer over {name}", result))
    for name, reason in found.get("broken", {}).items():
        lines.append(f"{name} does NOT import ({reason})")
    if found["removed_variables"]:
        lines.append(f"left out of the engine's environment: {', '.join(found['removed_variables'])}")
    if found["passed_variables"]:
        reach = " ".join(f"{name}={value}" for name, value in found["passed_variables"].items())
        lines.append(f"reach the engine: {reach}")
    lines.append("")
    if only := found["real"].get("only"):
        lines.append(f"`bufferlab real` works here over {only} alone, which needs no Mooncake: add --transport {only}")
        if found["mend"]:
            lines.append("To have Mooncake's transports as well:")
    elif found["real"]["works"]:
        lines.append("`bufferlab sim` and `bufferlab real` work here." if found["simulator"]["works"] else "")
    else:
        lines.append("`bufferlab real` does not work here" + ("; to mend it:" if found["mend"] else "."))
    lines.extend(f"    {command}" for command in found["mend"])
    return "\n".join(lines).rstrip()


def _state(name: str, result: Report) -> str:
    return f"{name}: works" if result["works"] else f"{name}: does NOT work ({result['reason']})"

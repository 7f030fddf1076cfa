"""`legion simulate`: whole groups in virtual time, with faults drawn from a seed."""

from __future__ import annotations

import typer

from legion_iot.cli.bench import show
from legion_iot.cli.console import err, out, progress_line
from legion_iot.errors import UsageError


def simulate(
    agents: int = typer.Option(6, help="Agents in each group."),
    seeds: str = typer.Option("0..99", help="Seeds to run, as FIRST..LAST; each is a group with its own faults."),
    faults: str = typer.Option("all", help="Kinds of faults, with commas between them; or all, or none."),
    requests: int = typer.Option(40, help="Requests to each group, beside bursts."),
    trace: int | None = typer.Option(None, metavar="SEED", help="Run this seed only, and print all that happens."),
    list_faults: bool = typer.Option(False, "--list-faults", help="Print the kinds of faults, and end."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Groups in virtual time: the real machines of orchestrator and agents, with faults from seeds.

    Every request has to end once, in time and rightly, and the group has to serve again after the last fault. Exits
    with 1 where that does not hold, and prints the command that repeats it.

    Example: legion simulate --agents 6 --seeds 0..99 --faults crash,hang,broker
    """
    from legion_iot.bench import simulation as bench  # noqa: PLC0415 — loads numpy
    from legion_iot.runtime.simulation.faults import KINDS  # noqa: PLC0415
    from legion_iot.runtime.simulation.run import simulate as run_seed  # noqa: PLC0415

    if list_faults:
        for name, kind in KINDS.items():
            out.print(f"{name:14}{kind.text}", markup=False, soft_wrap=True)
        return
    setting, numbers = bench.setting(agents, requests, faults), bench.seeds(seeds)
    if trace is not None:
        if as_json:
            raise UsageError("--trace prints a line for everything that happens; leave --json out")
        outcome = run_seed(trace, setting, trace=typer.echo)
        if outcome.broken:
            err.print(f"legion: seed {trace}: {outcome.broken}: {outcome.detail}", markup=False, soft_wrap=True)
            raise typer.Exit(1)
        return
    with progress_line(quiet=as_json) as progress:
        report = bench.run(setting, numbers, progress)
    if not as_json:
        for row in report.rows:
            if "broken" in row:
                out.print(f"seed {row['seed']}: {row['broken']}: {row['detail']}", markup=False, soft_wrap=True)
                out.print(f"  again: {row['repeat']}", markup=False, soft_wrap=True)
    show(report, as_json)

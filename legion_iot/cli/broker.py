"""`legion broker`: an MQTT broker without a service to install."""

from __future__ import annotations

import threading

import typer

from legion_iot.cli.console import err

app = typer.Typer(help="An MQTT broker for this machine.", no_args_is_help=True)


@app.command("run")
def run(
    port: int = typer.Option(1883, min=0, max=65535, help="Port on the loopback interface; 0 takes a free one."),
) -> None:
    """Run a broker on 127.0.0.1 until Ctrl-C: Mosquitto where it is installed, else the embedded one.

    Example: legion broker run --port 1884
    """
    from legion_iot_broker.launch import local_broker  # noqa: PLC0415 — starts nothing at import, but takes time

    with local_broker(port=port) as running:
        typer.echo(str(running.address))
        err.print(f"{running.kind} {running.version} is running; Ctrl-C stops it", markup=False)
        threading.Event().wait()

"""Every command with its arguments. Bodies import what they need when they run: `culvert --help` loads no network or TLS library."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from culvert.cli.ca import app as ca_app
from culvert.cli.output import FAILED, USAGE, UsageError, fail
from culvert.cli.target import layout_of
from mesh.model.errors import CulvertError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A sidecarless service mesh. `culvert up -f examples/bookstore` makes a playground cluster on this machine.",
)


app.add_typer(ca_app, name="ca")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"culvert {version('culvert-mesh')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")] = False,
) -> None:
    """A sidecarless service mesh. `culvert up -f examples/bookstore` makes a playground cluster on this machine."""


Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--filename", help="Manifest file, directory or -; may be repeated: each goes on top of those before it."),
]
Name = Annotated[
    str | None, typer.Option("--name", help="Which playground. Default: the one whose state is in --state; else $CULVERT_NAME or culvert.")
]
State = Annotated[Path | None, typer.Option("--state", help="Its state directory. Default: /run/culvert/NAME.")]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Only this namespace. Default: all.")]
Output = Annotated[str | None, typer.Option("-o", "--output", help="json, yaml or wide.")]


@app.command()
def up(
    filename: Files = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, max=64, help="Default: 2, or as many as the playground has.")] = None,
    name: Name = None,
    state: State = None,
    mesh: Annotated[bool, typer.Option("--mesh/--no-mesh", help="Without the mesh: plain pods and services.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for everything to be ready.")] = 60.0,
    certificate_lifetime: Annotated[
        int | None, typer.Option(min=10, max=7776000, help="Seconds that a pod's certificate lives. Default: a day.")
    ] = None,
    consul: Annotated[
        str | None, typer.Option("--consul", help="http(s)://HOST:PORT of a Consul, as this machine sees it: its services join the mesh's.")
    ] = None,
    consul_token_file: Annotated[Path | None, typer.Option(help="File with the ACL token for --consul.")] = None,
    consul_ca_file: Annotated[Path | None, typer.Option(help="PEM certificates that --consul https://... is trusted by.")] = None,
) -> None:
    """Make a cluster on this machine and apply manifests to it. Repeated, it repairs and applies again."""
    from culvert.cli.up import consul_options, run_up

    options = consul_options(consul, consul_token_file, consul_ca_file)
    run_up(
        layout_of(name, state, new=True),
        filename or [],
        nodes,
        mesh=mesh,
        timeout=timeout,
        certificate_lifetime=certificate_lifetime,
        consul=options,
    )


@app.command()
def down(name: Name = None, state: State = None) -> None:
    """Remove the playground: pods, processes, namespaces, kernel programs, state."""
    from culvert.cli.down import run_down

    run_down(layout_of(name, state))


@app.command()
def uninstall(
    name: Name = None,
    state: State = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every playground, and every kernel program of Culvert on this machine.")
    ] = False,
) -> None:
    """Remove one playground and its kernel programs, as `down` does; with --all everything of Culvert from this machine."""
    from culvert.cli.down import run_down, run_uninstall

    if everything and (name or state):
        raise UsageError("--all means every playground; leave out --name and --state, or leave out --all")
    if everything:
        run_uninstall()
    else:
        run_down(layout_of(name, state))


@app.command()
def apply(
    filename: Files = None,
    name: Name = None,
    state: State = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the pods are ready.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for --wait.")] = 60.0,
) -> None:
    """Apply manifests. A refused object is refused whole and the rest applied; the exit code is then 1."""
    from culvert.cli.objects import run_apply

    run_apply(layout_of(name, state), filename or [], wait=wait, timeout=timeout)


@app.command()
def delete(
    what: Annotated[list[str] | None, typer.Argument(help="KIND NAME..., or KIND/NAME...; or: refused FILE...")] = None,
    filename: Files = None,
    namespace: Namespace = None,
    name: Name = None,
    state: State = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until the pods are gone.")] = True,
) -> None:
    """Delete objects by name or by manifest. What was refused is let go of in the same way, and by `culvert delete refused FILE`."""
    from culvert.cli.objects import run_delete

    run_delete(layout_of(name, state), what or [], filename or [], namespace, wait=wait)


@app.command()
def label(
    what: Annotated[list[str], typer.Argument(help="KIND NAME key=value... key-...")],
    namespace: Namespace = None,
    name: Name = None,
    state: State = None,
) -> None:
    """Set or remove labels: `culvert label namespace bookstore istio.io/dataplane-mode=ambient` puts its pods into the mesh."""
    from culvert.cli.objects import run_label

    run_label(layout_of(name, state), what, namespace)


@app.command()
def get(
    kind: Annotated[
        str, typer.Argument(help="pods, services, nodes, deployments, namespaces, policies, refused, or another kind.")
    ] = "pods",
    names: Annotated[list[str] | None, typer.Argument()] = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="As without -n; for who is used to it.")] = False,
    output: Output = None,
    name: Name = None,
    state: State = None,
) -> None:
    """Show objects."""
    from culvert.cli.show import run_get

    if all_namespaces and namespace is not None:
        raise UsageError("-A means all namespaces; leave out -n, or leave out -A")
    run_get(layout_of(name, state), kind, names or [], namespace, output)


@app.command()
def logs(
    pod: Annotated[str, typer.Argument(help="A pod, deploy/NAME, or a mesh process such as control or node-1.ztunnel.")],
    follow: Annotated[bool, typer.Option("-f", "--follow")] = False,
    tail: Annotated[int, typer.Option("--tail", help="Only the last lines; -1 for all.")] = -1,
    container: Annotated[str | None, typer.Option("-c", "--container")] = None,
    namespace: Namespace = None,
    name: Name = None,
    state: State = None,
) -> None:
    """Print what a pod's container, or one of the mesh's processes, wrote."""
    from culvert.cli.pods import run_logs

    run_logs(layout_of(name, state), pod, namespace, container, follow=follow, tail=tail)


@app.command(context_settings={"ignore_unknown_options": True})
def exec(
    pod: Annotated[str, typer.Argument(help="A pod, or deploy/NAME for any of its pods.")],
    command: Annotated[list[str], typer.Argument(help="After --, the command.")],
    container: Annotated[str | None, typer.Option("-c", "--container")] = None,
    namespace: Namespace = None,
    name: Name = None,
    state: State = None,
) -> None:
    """Run a command inside a pod: its network, its /etc/hosts, its environment. Exits as the command does."""
    from culvert.cli.pods import misplaced, run_exec

    problem = misplaced(sys.argv[sys.argv.index("exec") + 1 :] if "exec" in sys.argv else [], command)
    if problem:
        raise UsageError(problem)
    run_exec(layout_of(name, state), pod, namespace, container, command)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    name: Name = None,
    state: State = None,
    control: Annotated[
        str | None, typer.Option("--control", help="http://HOST:PORT of any control plane's debug port: sources, laggards, refusals.")
    ] = None,
) -> None:
    """Nodes, processes, pods and their place in the mesh, certificates, the control plane's view, refused manifests.

    The exit code is 1 where something is not ready, not connected, behind, refused or not enforced as written, or where there is no
    playground. With --control: 1 where a client lags or rejects something, or a source is not current.
    """
    if control is not None:
        from culvert.cli.sync import run_sync

        raise typer.Exit(run_sync(control, as_json=as_json))
    from culvert.cli.status import run_status

    raise typer.Exit(run_status(layout_of(name, state), as_json=as_json))


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    name: Name = None,
    state: State = None,
) -> None:
    """Prove from packets that what should be encrypted is: captures the wire while it sends marked payloads through the mesh."""
    from culvert.verify import run as run_verify

    raise typer.Exit(run_verify(layout_of(name, state).state, as_json))


@app.command()
def demo(
    name: Annotated[str, typer.Option("--name", help="The playground that the tour makes and takes down.")] = "demo",
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running.")] = False,
) -> None:
    """The tour: the bookstore enters the mesh, and every claim is checked."""
    from culvert.demo import run as run_demo

    raise typer.Exit(run_demo(layout_of(name, None).name, keep=keep))


@app.command()
def analyze(
    filename: Annotated[
        list[Path] | None, typer.Option("-f", "--filename", help="File, directory (with all below it) or -; may be repeated.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig: the cluster as it is.")] = None,
    kubeconfig: Annotated[Path | None, typer.Option("--kubeconfig", help="Default: $KUBECONFIG or ~/.kube/config.")] = None,
    namespace: Annotated[str | None, typer.Option("-n", "--namespace", help="Only what is found in this one. Default: all.")] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="text, json or sarif.")] = "text",
    severity: Annotated[str, typer.Option("--severity", help="error, warning or info: what makes the exit code 1.")] = "error",
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="A code that is not to be reported; may be repeated.")] = None,
    root_namespace: Annotated[str, typer.Option(help="Where policies are for all of the mesh. Default: istio-system.")] = "",
    trust_domain: Annotated[str, typer.Option(help="That of the mesh's identities. Default: cluster.local.")] = "",
    codes: Annotated[bool, typer.Option("--codes", help="Print what can be found, as a table in Markdown.")] = False,
) -> None:
    """Find what is wrong with manifests, with a cluster, or with a cluster that manifests were applied to (-f with --context)."""
    from culvert.cli.analyze import Asked, run_analyze, show_codes

    if codes:
        show_codes()
        return
    asked = Asked(filename or [], context, kubeconfig, namespace or "", output, severity, tuple(ignore or ()), root_namespace, trust_domain)
    raise typer.Exit(run_analyze(asked))


@app.command()
def crds(
    output: Annotated[
        Path | None, typer.Option("--output", help="A directory that gets one file per definition. Default: standard output.")
    ] = None,
) -> None:
    """Print the CustomResourceDefinitions of every API that is read, made of the parser.

    `culvert crds | kubectl apply --server-side -f -`: the definitions are too long for the annotation of a client-side apply.
    """
    from culvert.cli.crds import run_crds

    run_crds(output)


CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def run() -> int:
    """The exit code. Errors that a person can act on are one sentence, never a traceback."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # while a failure can still be told
    except UsageError as error:
        fail(str(error), USAGE)
    except CulvertError as error:
        fail(str(error), FAILED)
    except BrokenPipeError:
        _no_more_output()
        return FAILED
    except OSError as error:
        fail(_of_the_machine(error), USAGE)
    except KeyboardInterrupt:
        return 130
    return 0


def _of_the_machine(error: OSError) -> str:
    """What a person can do something about. Anything else is raised again: its traceback is what we need."""
    what = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return f"{what}: a playground belongs to root: try again with sudo"
    if error.errno in CANNOT_WRITE:
        _no_more_output()
        return f"cannot write: {what}"
    raise error


def _no_more_output() -> None:
    """What is still in the buffer would fail again when the interpreter ends, and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

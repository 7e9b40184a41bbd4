"""Taking an instance of the agent off a node: after this nothing of it is left, and every pod works as one that was never meshed.

The capture of all pods ends first, by detaching the programs at the cgroup's root; then the routing of every namespace that an agent had
changed is put back from its record. Refused while an agent of the instance is alive: it would enrol the pods again.
"""

from __future__ import annotations

import contextlib
import os

from agent import bpf, routing
from agent.config import Config
from agent.enrol import find_namespace
from agent.records import Records
from agent.redirection import RedirectionFiles


def uninstall(config: Config) -> list[str]:
    """Idempotent. Returns what could not be undone, one sentence each (its records stay, for the next try).

    Raises BusyError while the agent runs, OSError where the pins cannot be removed.
    """
    bpf.uninstall(config.instance, config.bpffs)
    problems = []
    directory = os.path.join(config.run_dir, "pods")
    if os.path.isdir(directory):
        records = Records(directory)
        for record in records:
            namespace = find_namespace(record)
            if namespace is not None:  # otherwise its routing is gone with it
                with namespace:
                    try:
                        routing.restore(namespace, record.before)
                    except OSError as error:
                        problems.append(f"The routing of {record.netns} (pod {record.uid}) could not be put back: {error}.")
                        continue
            records.remove(record.cookie)
        with contextlib.suppress(OSError):  # not empty: see above
            os.rmdir(directory)
    if os.path.isdir(config.redirection_dir):
        redirections = RedirectionFiles(config.redirection_dir)
        for uid in redirections.all():
            redirections.withdraw(uid)
    for path in (config.mark_file, config.zds_socket):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return problems

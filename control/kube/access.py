"""How to reach a cluster: from inside it (the pod's service account), or by a kubeconfig's context. lightkube reads both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.config.models import NameValue, User
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from mesh.model.errors import ConfigError, Refusal

EXEC_V1, EXEC_V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
EXEC_INFO = '{"apiVersion":"%s","kind":"ExecCredential","spec":{"interactive":false}}'


@dataclass(frozen=True, slots=True)
class Access:
    """`kubeconfig`: a file, None for the pod's service account. `context`: one of its contexts, "" for its current one."""

    kubeconfig: Path | None = None
    context: str = ""
    account: Path = Path(SERVICE_ACCOUNT)
    """Directory with the service account's token, ca.crt and namespace."""

    def load(self) -> SingleConfig:
        """Read it, from files and, inside a cluster, KUBERNETES_SERVICE_HOST and _PORT. ConfigError says what is missing."""
        where = str(self.kubeconfig or self.account)
        try:
            if self.kubeconfig is not None:
                found = self._chosen(self.kubeconfig)
            else:
                found = KubeConfig.from_service_account(self.account).get()
        except KeyError as error:
            raise ConfigError(Refusal(where, "", str(error.args[0]), "nothing", "an entry or a variable of that name")) from error
        except (LightkubeConfigError, OSError, ValueError, TypeError, AttributeError, msgspec.MsgspecError, yaml.YAMLError) as error:
            value = f"what cannot be used ({error})"
            raise ConfigError(Refusal(where, "", "", value, "a kubeconfig file, or a pod's service account")) from error
        assert found is not None
        user = found.user if found.user is not None else User()
        return found._replace(user=_with_exec_v1(user))

    def _chosen(self, path: Path) -> SingleConfig | None:
        """ConfigError where there is no file, or it has no such context; what lightkube raises for what is none."""
        if not path.expanduser().is_file():
            raise ConfigError(Refusal(str(path), "", "", "no file", "a kubeconfig"))
        config = KubeConfig.from_file(path)
        context = self.context or config.current_context
        if context is not None and context not in config.contexts:
            known = f"one of its contexts: {', '.join(sorted(config.contexts))}" if config.contexts else "a kubeconfig with contexts"
            raise ConfigError(Refusal(str(path), "", "context" if self.context else "current-context", repr(context), known))
        return config.get(context)


def _with_exec_v1(user: User) -> User:
    """lightkube knows credential plugins of v1beta1, and does not tell them which version is wanted. In v1 they answer the same."""
    plugin = user.exec
    if plugin is None:
        return user
    info = NameValue(name="KUBERNETES_EXEC_INFO", value=EXEC_INFO % plugin.apiVersion)
    version = EXEC_V1BETA1 if plugin.apiVersion == EXEC_V1 else plugin.apiVersion
    known = msgspec.structs.replace(plugin, apiVersion=version, env=[info, *(plugin.env or [])])
    return msgspec.structs.replace(user, exec=known)

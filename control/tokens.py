"""Node tokens live in `control.auth.tokens`."""

from control.auth.tokens import NodeTokens as NodeTokens

"""The plugin for opencode: it puts the shims in front of the PATH of the shells that opencode starts.

Plugins are files of JavaScript in a directory, loaded at start. The hook `shell.env` may change the
environment of each shell: https://opencode.ai/docs/plugins/, and packages/plugin/src/index.ts of
anomalyco/opencode. Not run by us in opencode itself; the tests run the file with Node.
"""

from __future__ import annotations

import json

MARK = "// Written by `buildslots setup opencode`"
"""How the first line of every version of the file begins."""
TEXT = (
    MARK
    + """; `buildslots setup opencode --uninstall` removes it.
// Builds of opencode's shells wait for one of the machine's build slots: `buildslots help agents`.
const SHIMS = @SHIMS@

export const BuildSlots = async () => ({
  "shell.env": async (_input, output) => {
    const path = output.env.PATH ?? process.env.PATH
    if (path && !path.split(":").includes(SHIMS)) output.env.PATH = `${SHIMS}:${path}`
    output.env.BUILD_SLOTS_AGENT ??= "opencode"
  },
})
"""
)


def text(shims: str) -> str:
    """The whole file, for shims in the directory `shims`."""
    return TEXT.replace("@SHIMS@", json.dumps(shims))


def is_ours(text: str) -> bool:
    """Whether a file is one that we have written, or an older version of it."""
    return text.startswith(MARK)

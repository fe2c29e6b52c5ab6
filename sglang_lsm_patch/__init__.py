"""The SGLang side: a plugin, an adapter and a cache class around the store.

SGLang loads `plugin.register` through its entry-point group `sglang.srt.plugins`, in every process.
Importing this package does nothing. README.md lists each hook and the upstream symbol it needs.
"""

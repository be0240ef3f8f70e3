"""What the processes that host a module share, nodes and hub alike: links with greetings, dispatch, files.

Here: nothing that knows which of the two it serves. Not here: decisions (`protocol`), a module being opened.
"""

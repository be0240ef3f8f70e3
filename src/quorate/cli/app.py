"""The command tree.

Here: which group has which word. Not here: any command.
"""

import typer

from quorate.cli import access, audit, domain, fleet, fleet_key, hub, node, operator
from quorate.cli.options import EPILOG_WIDTH, PLAIN_HELP

app = typer.Typer(
    name="quorate",
    help="A key management service whose keys exist only by quorum.",
    epilog='Start with: quorate up --detach, then: eval "$(quorate env)"',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=PLAIN_HELP,
    context_settings={"max_content_width": EPILOG_WIDTH},
)
fleet.register(app)
app.add_typer(operator.app, name="operator")
app.add_typer(hub.app, name="hub")
app.add_typer(node.app, name="node")
app.add_typer(fleet_key.app, name="fleet")
app.add_typer(domain.app, name="domain")
app.add_typer(access.app, name="access")
app.add_typer(audit.app, name="audit")

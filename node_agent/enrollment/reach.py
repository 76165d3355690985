"""Says why nobody answers at an address, and what to do about it."""

import asyncio
import socket

PATIENCE_S = 5.0


async def why_unreachable(target: str, said: str) -> str:
    """In words of the network; `said` is what the call ended with. `target` is `host:port`."""
    host, _, port = target.rpartition(":")
    nothing = "nothing needs to be open on this machine"
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
    except socket.gaierror:
        return f"the name {host} cannot be looked up here; check the machine's DNS, or join with --controller IP:{port}"
    except TimeoutError:
        return (
            f"{target} did not answer in {PATIENCE_S:g} s: a firewall drops what this machine sends; "
            f"allow outgoing TCP to {host} port {port} ({nothing})"
        )
    except ConnectionRefusedError:
        return (
            f"nobody listens at {target}: check that the platform runs there and publishes its port for nodes "
            "(AIOPS_NODE_PORT, AIOPS_PUBLIC_NODE_ADDRESS)"
        )
    except OSError as error:
        return f"{target} cannot be reached ({error.strerror or error}); check the route to it, outgoing ({nothing})"
    return (
        f"what answers at {target} is not the controller that this token vouches for ({said}): the token is another "
        "platform's, this is not the port for nodes, or a proxy in between ends TLS"
    )

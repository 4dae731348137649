"""Groups of channels by name."""

from jaxcompress.interpreters.channels import Channels, Group, Member
from jaxcompress.paths import compiled, did_you_mean


def name_of(member: Member) -> str:
    """Returns ``path:axis``, as groups are named too."""
    return Group((member,)).name


def keyed(channels: Channels) -> dict[str | int, Group]:
    """Returns the groups by name, or by their index where several have one name."""
    names = [group.name for group in channels.groups]
    return {i if names.count(n) > 1 else n: g for i, (n, g) in enumerate(zip(names, channels.groups, strict=True))}


def group_of(channels: Channels, key: str | int) -> Group:
    """Returns the group of a name or an index; raises ValueError for one that there is not, or not once."""
    names = [group.name for group in channels.groups]
    if isinstance(key, str):
        found = [i for i, name in enumerate(names) if name == key]
        if len(found) > 1:
            raise ValueError(f"{key!r} is the name of the groups {found}; give the index of one")
        if not found:
            raise ValueError(
                f"there is no group {key!r}{did_you_mean(key, names)}; there are {', '.join(names) or 'none'}"
            )
        return channels.groups[found[0]]
    if isinstance(key, bool) or not 0 <= key < len(names):
        raise ValueError(f"group {key} is not one of the {len(names)} groups, from 0 on")
    return channels.groups[key]


def matching(channels: Channels, pattern: str) -> dict[str | int, Group]:
    """Returns, as `keyed` does, the groups of which `pattern` matches a member, as ``path:axis``.

    ``conv1/kernel:3`` finds the group that the filters of ``conv1`` belong to, whatever it is named after. Raises
    ValueError if `pattern` is not a regular expression or matches nothing; the message lists the members.
    """
    selects = compiled(pattern)
    found = {key: g for key, g in keyed(channels).items() if any(selects.fullmatch(name_of(m)) for m in g.members)}
    if not found:
        raise ValueError(no_member(channels, pattern))
    return found


def no_member(channels: Channels, pattern: str) -> str:
    """Says that `pattern` matches no member of a group, and what there is."""
    there = [name_of(member) for group in channels.groups for member in group.members]
    listed = "\n  ".join(there) or "(no group of channels)"
    return f"pattern {pattern!r} matches no member of a group{did_you_mean(pattern, there)}; there are:\n  {listed}"

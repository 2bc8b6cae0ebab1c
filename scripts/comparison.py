"""What the scripts that compare Traefik with Tidegate have in common: their arguments, what differs, and the count of it."""
import argparse, collections, json


def parser(doc, base):
    """Arguments: both binaries, a word of the cases to run, whether to print everything, the first port."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("traefik")
    found.add_argument("tidegate")
    found.add_argument("-k", default="")
    found.add_argument("-v", action="store_true")
    found.add_argument("--base", type=int, default=base)
    return found


def differences(one, other, path="", lists=lambda one, other, path: None):
    """The smallest places where two observations differ. `lists` may know better what differs between two lists."""
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        return [line for key in sorted({*one, *other}) for line in differences(one.get(key), other.get(key), f"{path}.{key}", lists)]
    if isinstance(one, list) and isinstance(other, list):
        special = lists(one, other, path)
        if special:
            return special
        if len(one) == len(other):
            return [line for at, pair in enumerate(zip(one, other)) for line in differences(*pair, f"{path}[{at}]", lists)]
    return [f"{path}: {json.dumps(one)[:300]}", f"{' ' * len(path)}> {json.dumps(other)[:300]}"]


def report(observed, known, verbose, lists=lambda one, other, path: None):
    """Prints what differs between both observations, by name, and the count. True when anything differs that is not `known`, which gives a
    reason or nothing for a name and both sides."""
    counts = collections.Counter()
    for name in dict.fromkeys([*observed[0], *observed[1]]):
        both = observed[0].get(name), observed[1].get(name)
        lines, reason = differences(*both, lists=lists), known(name, *both)
        counts["same" if not lines else "known" if reason else "different"] += 1
        if lines and (not reason or verbose):
            print(f"== {name}" + (f" ({reason})" if reason else ""))
            print("\n".join("   " + line for line in lines[:14]))
        elif verbose:
            print(f"== {name}: same\n   {json.dumps(both[0])[:600]}")
    print(dict(counts))
    return counts["different"] > 0

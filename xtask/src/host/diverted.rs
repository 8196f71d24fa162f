//! Ports of 127.0.0.1 that rules of the packet filter divert to containers that are gone. An engine
//! that is killed while it works leaves such rules, no list of its own names them, and whoever gets
//! such a port later is never reached.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use crate::engine::{Engine, EngineKind, ask};
use crate::process;

/// The chain in which netavark, the network program of podman, publishes ports.
const CHAIN: &str = "NETAVARK-HOSTPORT-DNAT";
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// The rules that lead to containers which `engine` does not have: port, and the command that
/// removes the rule. None where the rules cannot be read: only root may, and only iptables is asked.
///
/// # Errors
/// When the engine does not answer.
pub fn rules(engine: &Engine) -> Result<BTreeMap<u16, String>> {
    if engine.kind != EngineKind::Podman {
        return Ok(BTreeMap::new());
    }
    let Some(iptables) = super::program("iptables") else {
        return Ok(BTreeMap::new());
    };
    let list =
        process::Invocation::new(iptables.as_str()).args(["--wait", "-t", "nat", "-S", CHAIN]);
    let Ok(rules) = process::capture(&list, ANSWER_DEADLINE) else {
        return Ok(BTreeMap::new());
    };
    let question = engine
        .invocation()
        .args(["ps", "--all", "--quiet", "--no-trunc"]);
    let known = ask::capture(&question)?.stdout;
    Ok(stale(&rules.stdout, &known.lines().collect()))
}

/// netavark writes the container into the rule's comment: `dnat name: <network> id: <container>`.
fn stale(rules: &str, containers: &BTreeSet<&str>) -> BTreeMap<u16, String> {
    rules
        .lines()
        .filter_map(|line| {
            let rule = line.strip_prefix("-A ")?;
            let (_, after) = rule.split_once(" id: ")?;
            let id = after.split('"').next()?;
            let (_, after) = rule.split_once("--dport ")?;
            let port = after.split(' ').next()?.parse().ok()?;
            let removal = format!("iptables -t nat -D {rule}");
            (!containers.contains(id)).then_some((port, removal))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::stale;

    #[test]
    fn a_rule_of_a_container_that_is_gone_is_told() {
        let rules = concat!(
            "-N NETAVARK-HOSTPORT-DNAT\n",
            "-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 42417 -m comment --comment \"dnat name: n id: aa\" -j X\n",
            "-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 38231 -m comment --comment \"dnat name: n id: bb\" -j Y\n",
        );
        let found = stale(rules, &BTreeSet::from(["aa"]));
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [38231]);
        assert_eq!(
            found[&38231],
            "iptables -t nat -D NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 38231 -m comment --comment \"dnat name: n id: bb\" -j Y"
        );
    }
}

//! The proof on the local cluster: the engine tells what each container runs, each process answers
//! over its published port.

use std::thread;

use anyhow::Result;

use super::{Evidence, Finding, PROBES, ask_version, gathered, unused};
use crate::cluster::local::{Local, Planned};
use crate::engine::ContainerFacts;
use crate::manifest::{Named as _, Seen};
use crate::pipeline::deploy::Deployment;
use crate::report::live;
use crate::threads::joined;

/// Looks at every container: what was seen, and what differs from what was built.
pub(super) fn look(deployment: &Deployment, local: &Local) -> Result<(Vec<Evidence>, Vec<String>)> {
    let containers_count = local.containers().len() + local.inits().len();
    let _activity = live::begin("attesting", format!("{containers_count} containers"));
    let facts = local.facts()?;
    let mut differences = unused(deployment, local.containers().iter().map(Planned::image));
    let seen: Vec<Result<Finding>> = thread::scope(|scope| {
        let looking: Vec<_> = local
            .containers()
            .iter()
            .map(|container| (container, Role::Stays))
            .chain(local.inits().iter().map(|init| (init, Role::Init)))
            .map(|(container, role)| {
                let facts = facts.get(&container.name);
                scope.spawn(move || look_at(deployment, container, role, facts))
            })
            .collect();
        looking.into_iter().map(joined).collect()
    });
    differences.extend(local.strangers()?.into_iter().map(|name| {
        format!("{name} is on the network of the run, and the run has not put it there")
    }));
    let seen: Result<Vec<Finding>> = seen.into_iter().collect();
    Ok(gathered(seen?, differences))
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It runs as long as the deployment.
    Stays,
    /// It ran to its end before that.
    Init,
}

fn look_at(
    deployment: &Deployment,
    container: &Planned<Seen>,
    role: Role,
    facts: Option<&ContainerFacts>,
) -> Result<Finding> {
    let name = &container.name;
    let mut seen = Finding::default();
    let Some(facts) = facts else {
        seen.differences.push(format!("{name} is gone"));
        return Ok(seen);
    };
    let image = container.image();
    if facts.image_id != image.image_id() {
        seen.differences.push(format!(
            "{name} runs image {}, built was {} ({})",
            facts.image_id,
            image.image_id(),
            image.reference()
        ));
    }
    if facts.reference != image.reference() {
        seen.differences.push(format!(
            "{name} was started from {}, not from {}",
            facts.reference,
            image.reference()
        ));
    }
    let mut version = None;
    if role == Role::Init {
        if facts.status != "exited" || facts.exit_code != 0 {
            seen.differences.push(format!(
                "{name} should have ended with 0: {}",
                facts.state()
            ));
        }
    } else if facts.status != "running" {
        seen.differences
            .push(format!("{name} is {}", facts.state()));
    } else if let Some(package) = image.package() {
        let ask = || ask(container, facts);
        let (answer, differences) = ask_version(deployment, name, package, ask)?;
        seen.differences.extend(differences);
        version = answer;
    }
    seen.evidence = Some(Evidence {
        service: container.service.clone(),
        container: name.clone(),
        pod: None,
        reference: facts.reference.clone(),
        image_id: facts.image_id.clone(),
        version,
        started_at: facts.started_at.clone(),
        restart_count: facts.restart_count,
    });
    Ok(seen)
}

/// Asks `/version` once.
fn ask(container: &Planned<Seen>, facts: &ContainerFacts) -> Result<String, String> {
    let inside = container.ports.get(PROBES);
    let published = inside.and_then(|inside| facts.ports.get(inside));
    let Some(published) = published else {
        return Err(format!("no port named `{PROBES}` is published"));
    };
    let url = format!("http://127.0.0.1:{published}/version");
    match minreq::get(&url).with_timeout(2).send() {
        Ok(response) if response.status_code == 200 => {
            Ok(response.as_str().unwrap_or_default().to_owned())
        }
        Ok(response) => Err(format!("/version answers {}", response.status_code)),
        Err(error) => Err(format!("/version does not answer: {error}")),
    }
}

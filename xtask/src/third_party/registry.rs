//! A registry, asked for an image. One that does not answer at once counts as none for an hour, so
//! that a desk without a network does not wait at every run.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::ThirdPartyImage;
use crate::engine::{Engine, ImageFacts};
use crate::host;
use crate::process::{self, ProcessError};
use crate::report::live::Activity;

/// How long a registry may take to say that it has the image.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long the image may take to come.
const PULL_DEADLINE: Duration = Duration::from_secs(600);
/// How long a refusal is believed.
const REFUSAL_HOLDS: Duration = Duration::from_secs(3600);

/// What came of it.
pub(super) enum Answer {
    /// The engine has it now, as this.
    Pulled(ImageFacts),
    /// No; with the reason.
    None(String),
}

#[derive(Serialize, Deserialize)]
struct Refusal {
    at: SystemTime,
    words: String,
}

/// Asks the registry, and pulls if it answers.
pub(super) fn pull(
    engine: &Engine,
    name: &str,
    image: &str,
    activity: &Activity,
) -> Result<Answer> {
    let memory = host::cache_directory()?.join(format!("registry-{name}.json"));
    if let Some(refusal) = host::read_cached::<Refusal>(&memory)
        && let Ok(age) = refusal.at.elapsed()
        && age < REFUSAL_HOLDS
    {
        let minutes = age.as_secs() / 60;
        return Ok(Answer::None(format!(
            "{minutes} min ago: {}",
            refusal.words
        )));
    }
    let ask = engine.invocation().args(["manifest", "inspect", image]);
    let pull = engine.invocation().args(["pull", "--quiet", image]);
    activity.say(format!("asking for {image}"));
    let outcome = process::capture(&ask, ANSWER_DEADLINE).and_then(|_| {
        activity.say(format!("pulling {image}"));
        process::capture(&pull, PULL_DEADLINE)
    });
    match outcome {
        Ok(_) => {
            let facts = engine.images([image])?.remove(image);
            let facts = facts.with_context(|| {
                format!(
                    "{image} was pulled, and {} does not list it",
                    engine.kind.program()
                )
            })?;
            Ok(Answer::Pulled(facts))
        }
        Err(error @ ProcessError::Interrupted { .. }) => Err(error.into()),
        Err(error) => {
            let words = words(&error);
            let refusal = Refusal {
                at: SystemTime::now(),
                words,
            };
            host::write_cached(&memory, &refusal)?;
            Ok(Answer::None(refusal.words))
        }
    }
}

fn words(error: &ProcessError) -> String {
    match error {
        ProcessError::Failed { stderr, .. } => stderr
            .lines()
            .last()
            .unwrap_or("no reason")
            .trim()
            .to_owned(),
        ProcessError::Deadline { deadline, .. } => format!("no answer within {deadline:?}"),
        error => error.to_string(),
    }
}

/// An image that a registry gave, now or earlier.
pub(super) fn described(name: &str, image: &str, facts: &ImageFacts, how: &str) -> ThirdPartyImage {
    let digest = facts
        .repository_digests
        .first()
        .and_then(|full| full.split_once('@'))
        .map_or_else(String::new, |(_, digest)| format!(" {digest}"));
    ThirdPartyImage {
        name: name.to_owned(),
        reference: image.to_owned(),
        image_id: facts.id.clone(),
        origin: format!("registry {image}{digest}, {how}"),
    }
}

//! How everything of a bundle stands, for the commands that tell of it.

use anyhow::Error;

use crate::bundle::{Bundle, ImageStanding, ToolStanding};
use crate::engine::Engine;

const MB: u64 = 1_000_000;

/// A tool or an image of a bundle.
pub(super) struct Item {
    /// `tool kind 0.33.0`, `image localhost/kind-node:v1.36.3`.
    title: String,
    pub(super) state: State,
}

/// How it stands.
pub(super) enum State {
    /// It can be used: how.
    Ready(String),
    /// It would be taken: from where, to where.
    Wanting(String),
    /// It cannot be told.
    Unknown,
    /// It cannot be had.
    Bad(Error),
}

impl Item {
    pub(super) fn line(&self) -> String {
        let title = &self.title;
        match &self.state {
            State::Ready(how) | State::Wanting(how) => format!("{title}: {how}"),
            State::Unknown => format!("{title}: no engine to ask for it"),
            State::Bad(error) => format!("{title}: {error:#}"),
        }
    }

    /// Something is to be done before it can be used, or to be told why that cannot be done.
    pub(super) const fn is_wanting(&self) -> bool {
        !matches!(self.state, State::Ready(_))
    }
}

/// Everything that the bundle has, with what this engine has of it. Changes nothing.
pub(super) fn items(bundle: &Bundle, engine: Option<&Engine>) -> Vec<Item> {
    let tools = bundle.tools().map(|name| Item {
        title: bundle.tool_title(name),
        state: match bundle.look_at_tool(name) {
            Ok(ToolStanding::Ready(program)) => State::Ready(format!("is there, as {program}")),
            Ok(ToolStanding::InBundle(file)) => {
                State::Wanting(format!("would be copied from {file}"))
            }
            Err(error) => State::Bad(error),
        },
    });
    let images = bundle.images().map(|name| Item {
        title: format!("image {}", bundle.reference(name).unwrap_or(name)),
        state: match engine {
            Some(engine) => image(bundle, name, engine),
            None => State::Unknown,
        },
    });
    tools.chain(images).collect()
}

fn image(bundle: &Bundle, name: &str, engine: &Engine) -> State {
    let program = engine.kind.program();
    match bundle.look_at_image(name, engine) {
        Ok(ImageStanding::Loaded) => State::Ready(format!("is there, in {program}")),
        Ok(ImageStanding::InBundle(archive, bytes)) => State::Wanting(format!(
            "would be loaded into {program} from {archive}, {} MB",
            bytes / MB
        )),
        Err(error) => State::Bad(error),
    }
}

//! The container engine, by its command line. Ports and states are asked at each use: an engine
//! may publish another port after a restart.

use std::net::SocketAddr;
use std::process::{Command, Output};

use crate::run::EngineCommand;

/// What a container says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its process is there and runs.
    Running,
    /// Its process is there and frozen.
    Paused,
    /// Its process has ended or is about to.
    Stopped,
}

impl EngineCommand {
    /// Runs the engine with these arguments and gives its standard output.
    ///
    /// # Errors
    /// The command line and what it said, when it does not end with 0.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.output(arguments)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn output(&self, arguments: &[&str]) -> Result<Output, String> {
        let line = || format!("{} {}", self.program.display(), arguments.join(" "));
        let output = Command::new(&self.program)
            .args(arguments)
            .envs(&self.environment)
            .output()
            .map_err(|error| format!("{}: {error}", line()))?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("{}: {}: {said}", line(), output.status))
    }

    /// Where a port of a container is published.
    ///
    /// # Errors
    /// When it is not, or the container is down.
    pub fn address(&self, container: &str, port: u16) -> Result<SocketAddr, String> {
        let text = self.run(&["port", container, &format!("{port}/tcp")])?;
        let first = text.lines().next().unwrap_or_default().trim();
        let error = |error| format!("{container} publishes {port} as `{first}`: {error}");
        first.parse().map_err(error)
    }

    /// What has come of a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn state(&self, container: &str) -> Result<State, String> {
        let text = self.run(&["inspect", "--format", "{{.State.Status}}", container])?;
        Ok(match text.trim() {
            "running" => State::Running,
            "paused" => State::Paused,
            _ => State::Stopped,
        })
    }

    /// The images that these containers run, in their order, each as `sha256:...`; podman leaves the
    /// algorithm out.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn image_ids(&self, containers: &[&str]) -> Result<Vec<String>, String> {
        let inspect = ["container", "inspect", "--format", "{{.Image}}"];
        let text = self.run(&[&inspect, containers].concat())?;
        let ids: Vec<String> = text
            .lines()
            .map(|id| match id.contains(':') {
                true => id.to_owned(),
                false => format!("sha256:{id}"),
            })
            .collect();
        if ids.len() == containers.len() {
            return Ok(ids);
        }
        Err(format!("of {containers:?} the images are told as {text}"))
    }

    /// How often the engine itself has started a container again since it was told to start it.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn restarts(&self, container: &str) -> Result<u64, String> {
        let text = self.run(&["inspect", "--format", "{{.RestartCount}}", container])?;
        let error = |error| format!("{container} has `{}` restarts: {error}", text.trim());
        text.trim().parse().map_err(error)
    }

    /// When the process of a container was started, in the engine's own words.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn started_at(&self, container: &str) -> Result<String, String> {
        let text = self.run(&[
            "inspect",
            "--format",
            "{{json .State.StartedAt}}",
            container,
        ])?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{container} started `{text}`: {error}"))
    }

    /// With what code the process of a container ended last.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn exit_code(&self, container: &str) -> Result<i32, String> {
        let text = self.run(&["inspect", "--format", "{{.State.ExitCode}}", container])?;
        let error = |error| format!("{container} ended with `{}`: {error}", text.trim());
        text.trim().parse().map_err(error)
    }

    /// Everything a container wrote so far, both streams.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn logs(&self, container: &str) -> Result<String, String> {
        let output = self.output(&["logs", container])?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_shown() {
        let engine = EngineCommand {
            program: "/bin/cat".into(),
            environment: [].into(),
        };
        let error = engine.run(&["/absent"]).expect_err("no such file");
        assert!(
            error.starts_with("/bin/cat /absent: exit status: 1: "),
            "{error}"
        );
    }
}

//! Containers of an engine, podman or docker, by its command line.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use crate::child;
use crate::cluster::{Action, State};
use crate::poll::{Look, try_eventually};
use crate::run::EngineCommand;

/// How long one call may take, that to stop a container and to wait for it among them.
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// How long the engine may take to do what it is told.
const ACTED_WITHIN: Duration = Duration::from_secs(15);

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
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(&self.environment);
        child::output(&mut command, CALL_WITHIN)
    }

    /// Runs a program in a container, which reads `input` and gets one more variable by the engine's
    /// own environment: its value stands in no command line. Gives what the program wrote.
    ///
    /// # Errors
    /// The command line and what it said, when it does not end with 0 in time.
    pub fn exec(
        &self,
        container: &str,
        program: &[&str],
        (name, value): (&str, &str),
        input: File,
        within: Duration,
    ) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command
            .args(["exec", "--interactive", "--env", name, container])
            .args(program)
            .envs(&self.environment)
            .env(name, value);
        let output = child::output_of_file(&mut command, input, within)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where a port of a container is published.
    ///
    /// # Errors
    /// When it is not, or the container is down.
    pub fn address(&self, container: &str, port: u16) -> Result<SocketAddr, String> {
        let text = self.run(&["port", container, &format!("{port}/tcp")])?;
        let first = text.lines().next().unwrap_or_default().trim();
        if first.is_empty() {
            return Err(format!(
                "{container} publishes no port {port} now: it does not run"
            ));
        }
        let error = |error| format!("{container} publishes {port} as `{first}`: {error}");
        first.parse().map_err(error)
    }

    /// What has come of these containers, in their order.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn states(&self, containers: &[&str]) -> Result<Vec<State>, String> {
        let inspect = ["container", "inspect", "--format", "{{.State.Status}}"];
        let text = self.run(&[&inspect, containers].concat())?;
        let states: Vec<State> = text.lines().map(state).collect();
        if states.len() == containers.len() {
            return Ok(states);
        }
        Err(format!("of {containers:?} the states are told as {text}"))
    }

    /// Does it, and waits until the container is as it should then be.
    ///
    /// # Errors
    /// What the engine said, and what was last seen, when that does not come in time.
    pub fn act(&self, container: &str, action: Action) -> Result<(), String> {
        let seconds;
        let mut command = vec![action.name()];
        if let Action::Stop { drain_seconds } = action {
            seconds = drain_seconds.to_string();
            command.extend(["-t", &seconds]);
        }
        command.push(container);
        let mut said = self.run(&command);
        // The engine sees the effect of a signal in its own time, and holds the ports of a process
        // that has just ended for a moment more.
        try_eventually(ACTED_WITHIN, || {
            match self.states(&[container]).as_deref() {
                Ok([state]) if *state == action.effect() => Look::Seen(()),
                state => {
                    if action.effect() == State::Running && said.is_err() {
                        said = self.run(&command);
                    }
                    Look::NotYet(format!("{state:?} after {said:?}"))
                }
            }
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

    /// The process of a container, by its number on the host.
    ///
    /// # Errors
    /// When it does not run, or runs on another host.
    pub fn process(&self, container: &str) -> Result<u32, String> {
        let text = self.run(&["inspect", "--format", "{{.State.Pid}}", container])?;
        match text.trim().parse() {
            Ok(0) => Err(format!("{container} does not run")),
            Ok(process) => Ok(process),
            Err(error) => Err(format!("{container} is process `{}`: {error}", text.trim())),
        }
    }

    /// The address of a container on the network of the run.
    ///
    /// # Errors
    /// When it has none.
    pub fn inner_address(&self, container: &str) -> Result<Ipv4Addr, String> {
        const ADDRESS: &str = "{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}";
        let text = self.run(&["inspect", "--format", ADDRESS, container])?;
        let first = text.lines().next().unwrap_or_default().trim();
        let error = |error| format!("{container} has the address `{first}`: {error}");
        first.parse().map_err(error)
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

fn state(status: &str) -> State {
    match status.trim() {
        "running" => State::Running,
        "paused" => State::Paused,
        _ => State::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_neither_is_an_end() {
        let told = ["running", "paused ", "exited", "stopping", "created"].map(state);
        let (running, paused, stopped) = (State::Running, State::Paused, State::Stopped);
        assert_eq!(told, [running, paused, stopped, stopped, stopped]);
    }
}

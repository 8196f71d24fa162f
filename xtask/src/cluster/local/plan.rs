//! From manifests to container command lines: what will run, with which options. Nothing is
//! started here, so what cannot be run is refused before anything was made.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cluster::readiness::Readiness;
use crate::digest::Digest;
use crate::engine::{Engine, EngineKind};
use crate::exit::{Exit, Failure};
use crate::manifest::document::{Container, Medium, Volume};
use crate::manifest::{Manifests, Named, References, Workload};
use crate::run;
use crate::secrets::Secrets;
use hashing::encoding::Encoder;

/// Label with the digest of all that a pod was made from: the engine tells it of each container.
pub(super) const LABEL_PLAN: &str = "phase-zero.plan";
/// More processes than any service needs; a fork bomb ends here.
const PROCESSES_MAX: u32 = 2048;
/// What a container may say before the engine forgets the oldest.
const LOG_MAX: &str = "64m";
/// A container that comes or goes makes the network's name server read its table anew, and a
/// question asked in that moment is lost. The resolver's own 5 seconds before it asks again would
/// use up a caller's whole deadline.
const DNS_OPTIONS: [&str; 2] = ["--dns-option=timeout:1", "--dns-option=attempts:5"];

/// Where a run's containers get what they need.
pub(super) struct Surroundings<'a> {
    pub(super) engine: &'a Engine,
    pub(super) run: &'a str,
    pub(super) network: &'a str,
    /// `name=value`.
    pub(super) labels: &'a [String],
    pub(super) secrets: &'a Secrets,
    /// Holds a folder of files for each ConfigMap.
    pub(super) config: &'a Utf8Path,
    /// Whether the host has memory to spare for volumes; else they lie on disk.
    pub(super) memory_volumes: bool,
}

/// One pod: its volumes, what runs to its end first, and its container.
#[derive(Clone, Debug)]
pub(crate) struct Pod<Image> {
    pub(crate) volumes: Vec<PlannedVolume>,
    pub(crate) init: Vec<Planned<Image>>,
    pub(crate) main: Planned<Image>,
}

impl<Image> Pod<Image> {
    /// As people are shown it: its digest is of paths, and those of a run are only known in one.
    pub(super) fn without_digest(mut self) -> Self {
        for container in self.init.iter_mut().chain([&mut self.main]) {
            container.plan = "<plan>".to_owned();
        }
        self
    }
}

/// A volume that will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedVolume {
    pub(crate) name: String,
    /// Where its bytes lie, if not where the engine keeps volumes.
    pub(crate) directory: Option<Utf8PathBuf>,
    /// User and group that it is made for, where the engine does not see to it.
    pub(crate) owner: Option<(u32, u32)>,
}

/// A container that will be.
#[derive(Clone, Debug)]
pub(crate) struct Planned<Image> {
    pub(crate) name: String,
    /// The manifest's name.
    pub(crate) service: String,
    image: Image,
    options: Vec<String>,
    command: Vec<String>,
    plan: String,
    /// Ports by name.
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) config_maps: Vec<String>,
    pub(crate) readiness: Readiness,
}

impl<Image: Named> Planned<Image> {
    /// What it runs.
    pub(crate) const fn image(&self) -> &Image {
        &self.image
    }

    /// The digest of all that its pod is made from, as its label holds it.
    pub(super) fn plan(&self) -> &str {
        &self.plan
    }

    /// All after `run`. The one place where a reference comes into a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = self.options.clone();
        arguments.push(format!("--label={LABEL_PLAN}={}", self.plan));
        arguments.push(self.image.reference().to_owned());
        arguments.extend(self.command.iter().cloned());
        arguments
    }
}

/// Every pod of the run.
pub(super) fn pods<Image: Named>(
    around: &Surroundings<'_>,
    manifests: &Manifests,
    references: &References<Image>,
) -> Result<Vec<Pod<Image>>> {
    let mut pods = Vec::new();
    for workload in &manifests.workloads {
        for replica in 0..workload.deployment.spec.replicas {
            let planner = Planner {
                around,
                manifests,
                references,
                workload,
                replica,
            };
            pods.push(planner.pod()?);
        }
    }
    Ok(pods)
}

struct Planner<'a, Image> {
    around: &'a Surroundings<'a>,
    manifests: &'a Manifests,
    references: &'a References<Image>,
    workload: &'a Workload,
    replica: u32,
}

impl<Image: Named> Planner<'_, Image> {
    fn pod(&self) -> Result<Pod<Image>> {
        let spec = &self.workload.deployment.spec.template.spec;
        let volumes = spec.volumes.iter().filter(|volume| self.is_named(volume));
        let init = spec.init_containers.iter().map(|container| {
            let name = format!("{}-init-{}", self.name(), container.name);
            self.planned(name, container, Role::Init)
        });
        let mut pod = Pod {
            volumes: volumes.map(|volume| self.planned_volume(volume)).collect(),
            init: init.collect::<Result<_>>()?,
            main: self.planned(self.name(), self.workload.container(), Role::Main)?,
        };
        let plan = self.digest(&pod).to_string();
        for container in pod.init.iter_mut().chain([&mut pod.main]) {
            container.plan.clone_from(&plan);
        }
        Ok(pod)
    }

    /// Of the manifest as it is written, of each command line, and of each ConfigMap that is
    /// mounted: the files of these change under a container that stays.
    fn digest(&self, pod: &Pod<Image>) -> Digest {
        let mut encoder = Encoder::new("phase-zero pod 1");
        let manifest = self.manifests.digest_of(self.workload);
        encoder.optional(manifest.map(|digest| digest.to_string()).as_deref());
        let containers = pod.init.iter().chain([&pod.main]);
        encoder.count(pod.init.len());
        for container in containers {
            let parts = [&container.options, &container.command];
            encoder.text(container.image.reference());
            for part in parts {
                encoder.count(part.len());
                part.iter().for_each(|text| encoder.text(text));
            }
            encoder.count(container.config_maps.len());
            for name in &container.config_maps {
                let data = &self.manifests.config_maps[name];
                encoder.count(data.len());
                for (key, content) in data {
                    encoder.text(key);
                    encoder.text(content);
                }
            }
        }
        encoder.finish()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.around.run, self.host_name())
    }

    fn host_name(&self) -> String {
        format!("{}-{}", self.workload.name(), self.replica)
    }

    fn volume_name(&self, volume: &Volume) -> String {
        format!("{}-{}", self.name(), volume.name)
    }

    fn planned_volume(&self, volume: &Volume) -> PlannedVolume {
        let name = self.volume_name(volume);
        let medium = volume.empty_dir.as_ref().and_then(|empty| empty.medium);
        let in_memory = medium == Some(Medium::Memory) && self.around.memory_volumes;
        PlannedVolume {
            directory: in_memory.then(|| run::memory_volume(&name)),
            owner: match self.around.engine.kind {
                EngineKind::Podman => None,
                EngineKind::Docker => self.owner(),
            },
            name,
        }
    }

    /// Who writes to the pod's volumes.
    fn owner(&self) -> Option<(u32, u32)> {
        let pod = &self.workload.deployment.spec.template.spec.security_context;
        let own = &self.workload.container().security_context;
        let group = own.run_as_group.or(pod.run_as_group).or(pod.fs_group);
        let user = own.run_as_user.or(pod.run_as_user)?;
        Some((user, group.unwrap_or(0)))
    }

    /// An empty folder that outlives a container, or is shared by two, needs a volume of the
    /// engine; one in memory for one container alone does not.
    fn is_named(&self, volume: &Volume) -> bool {
        let spec = &self.workload.deployment.spec.template.spec;
        let containers = spec.init_containers.iter().chain(&spec.containers);
        let users = containers
            .filter(|container| mounts(container, volume))
            .count();
        match &volume.empty_dir {
            Some(empty) => empty.medium != Some(Medium::Memory) || users > 1,
            None => false,
        }
    }

    fn planned(&self, name: String, container: &Container, role: Role) -> Result<Planned<Image>> {
        let image = self.references.get(self.workload, &container.image)?;
        let mut arguments = vec![format!("--name={name}")];
        arguments.extend(self.place(role));
        arguments.extend(self.confinement(container));
        for variable in &container.env {
            arguments.push(format!("--env={}={}", variable.name, variable.value));
        }
        let mut config_maps = Vec::new();
        for mount in &container.volume_mounts {
            let volumes = &self.workload.deployment.spec.template.spec.volumes;
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.context("a mount was checked to have its volume")?;
            if volume.projected.is_some() {
                // There is no API server that a token would open.
                continue;
            }
            config_maps.extend(volume.config_map.as_ref().map(|map| map.name.clone()));
            let owns = self.owns(container, role, volume);
            arguments.push(self.mount(volume, &mount.mount_path, mount.read_only, owns)?);
        }
        if role == Role::Main {
            for port in &container.ports {
                arguments.push(format!("--publish=127.0.0.1::{}", port.container_port));
            }
        }
        let mut command = container.command.iter();
        arguments.extend(
            command
                .next()
                .map(|program| format!("--entrypoint={program}")),
        );
        Ok(Planned {
            name,
            service: self.workload.service.clone(),
            image: image.clone(),
            options: arguments,
            command: command.chain(&container.args).cloned().collect(),
            plan: String::new(),
            ports: container.named_ports(),
            config_maps,
            readiness: Readiness::of(container),
        })
    }

    fn place(&self, role: Role) -> Vec<String> {
        let host_name = self.host_name();
        let mut arguments = vec![
            "--pull=never".to_owned(),
            format!("--hostname={host_name}"),
            format!("--env=HOSTNAME={host_name}"),
            format!("--network={}", self.around.network),
        ];
        arguments.extend(DNS_OPTIONS.map(str::to_owned));
        if role == Role::Main {
            arguments.push("--restart=always".to_owned());
            let aliases = self.workload.aliases.iter();
            arguments.extend(aliases.map(|alias| format!("--network-alias={alias}")));
        }
        arguments.extend(
            self.around
                .labels
                .iter()
                .map(|label| format!("--label={label}")),
        );
        let grace = self
            .workload
            .deployment
            .spec
            .template
            .spec
            .termination_grace_period_seconds;
        arguments.push(format!("--stop-timeout={}", grace.unwrap_or(30)));
        let driver = match self.around.engine.kind {
            EngineKind::Podman => "k8s-file",
            EngineKind::Docker => "json-file",
        };
        arguments.push(format!("--log-driver={driver}"));
        arguments.push(format!("--log-opt=max-size={LOG_MAX}"));
        let image_volumes = self.around.engine.ignores_image_volumes();
        arguments.extend(image_volumes.iter().map(|&option| option.to_owned()));
        if self.around.engine.kind == EngineKind::Podman {
            // The host's proxy is none of a service's business.
            arguments.push("--http-proxy=false".to_owned());
        }
        arguments
    }

    /// securityContext and resources.
    fn confinement(&self, container: &Container) -> Vec<String> {
        let pod = &self.workload.deployment.spec.template.spec.security_context;
        let own = &container.security_context;
        let mut arguments = Vec::new();
        if let Some(user) = own.run_as_user.or(pod.run_as_user) {
            let group = own.run_as_group.or(pod.run_as_group).unwrap_or(0);
            arguments.push(format!("--user={user}:{group}"));
        }
        arguments.extend(pod.fs_group.map(|group| format!("--group-add={group}")));
        if own.read_only_root_filesystem {
            arguments.push("--read-only".to_owned());
            if self.around.engine.kind == EngineKind::Podman {
                // podman would put a writable /tmp, /run and /var/tmp where Kubernetes has none.
                arguments.push("--read-only-tmpfs=false".to_owned());
            }
        }
        if own.allow_privilege_escalation == Some(false) {
            arguments.push("--security-opt=no-new-privileges".to_owned());
        }
        let dropped = own.capabilities.drop.iter();
        arguments.extend(dropped.map(|name| format!("--cap-drop={name}")));
        let allowed = self.around.engine.limits;
        let limits = &container.resources.limits;
        if let Some(memory) = limits.memory.filter(|_| allowed.memory) {
            arguments.push(format!("--memory={}b", memory.bytes));
        }
        if let Some(cpu) = limits.cpu.filter(|_| allowed.cpus) {
            let (whole, rest) = (cpu.thousandths / 1000, cpu.thousandths % 1000);
            arguments.push(format!("--cpus={whole}.{rest:03}"));
        }
        if allowed.pids {
            arguments.push(format!("--pids-limit={PROCESSES_MAX}"));
        }
        arguments
    }

    /// Whether a container takes a volume into its possession. Where an init container of the same
    /// user has done so, the other must not: it is made while the first one works, and an engine
    /// that goes through its files then stumbles over one that was just removed.
    fn owns(&self, container: &Container, role: Role, volume: &Volume) -> bool {
        let spec = &self.workload.deployment.spec.template.spec;
        let pod = &spec.security_context;
        let user = |container: &Container| {
            let own = &container.security_context;
            (
                own.run_as_user.or(pod.run_as_user),
                own.run_as_group.or(pod.run_as_group),
            )
        };
        let mut inits = spec.init_containers.iter();
        role == Role::Init
            || !inits.any(|init| mounts(init, volume) && user(init) == user(container))
    }

    fn mount(&self, volume: &Volume, path: &str, read_only: bool, owns: bool) -> Result<String> {
        if let Some(map) = &volume.config_map {
            if !self.manifests.config_maps.contains_key(&map.name) {
                return Err(self.unknown(
                    "ConfigMap",
                    &map.name,
                    "the manifests of the run hold none of that name",
                ));
            }
            return bind(&self.around.config.join(&map.name), path);
        }
        if let Some(secret) = &volume.secret {
            let folder = self.around.secrets.mount(&secret.secret_name);
            if !folder.is_dir() {
                return Err(self.unknown(
                    "Secret",
                    &secret.secret_name,
                    "nothing of the run declares it in [package.metadata.e2e.secrets] or deploy/images.toml",
                ));
            }
            return bind(&folder, path);
        }
        if self.is_named(volume) {
            let mut options = vec![if read_only { "ro" } else { "rw" }];
            if self.around.engine.kind == EngineKind::Podman && owns {
                // The container's user owns it, as fsGroup would see to.
                options.push("U");
            }
            let name = self.volume_name(volume);
            return Ok(format!("--volume={name}:{path}:{}", options.join(",")));
        }
        let limit = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit);
        let size = limit.map_or_else(String::new, |limit| format!(",tmpfs-size={}", limit.bytes));
        Ok(format!(
            "--mount=type=tmpfs,destination={path},tmpfs-mode=1777{size}"
        ))
    }

    fn unknown(&self, what: &str, name: &str, why: &str) -> anyhow::Error {
        let workload = self.workload;
        Failure::new(
            Exit::Manifest,
            format!(
                "deploy/{}.yaml: Deployment {} mounts {what} {name}: {why}",
                workload.service,
                workload.name()
            ),
        )
        .into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Init,
    Main,
}

fn mounts(container: &Container, volume: &Volume) -> bool {
    container
        .volume_mounts
        .iter()
        .any(|mount| mount.name == volume.name)
}

/// Read-only, and relabelled where the host has SELinux.
fn bind(folder: &Utf8Path, path: &str) -> Result<String> {
    let folder: Utf8PathBuf = folder.to_owned();
    if folder.as_str().contains([':', ',']) {
        anyhow::bail!("{folder} cannot be mounted: no engine takes `:` or `,` in a path");
    }
    Ok(format!("--volume={folder}:{path}:ro,z"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use camino::Utf8PathBuf;

    use super::{Planned, PlannedVolume, Pod, Readiness, Surroundings, pods};
    use crate::engine::{Engine, EngineKind, Limits, Platform};
    use crate::manifest::{Expected, ImageNames, Manifests, References};
    use crate::secrets::Secrets;

    const SAMPLE: &str = r#"apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: db}
data: {conf: "a"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db}
spec:
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext: {runAsUser: 999, runAsGroup: 998, fsGroup: 997}
      initContainers:
        - name: init
          image: db
          command: [/init, --now]
          volumeMounts: [{name: data, mountPath: /data}, {name: tmp, mountPath: /tmp}]
      containers:
        - name: db
          image: db
          args: [-D, /data]
          env: [{name: A, value: "b c"}]
          ports: [{name: db, containerPort: 5432}, {containerPort: 9}]
          readinessProbe: {tcpSocket: {port: db}}
          resources: {limits: {cpu: 500m, memory: 1Mi}}
          securityContext:
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: tmp, mountPath: /tmp}
            - {name: run, mountPath: /run}
            - {name: config, mountPath: /config}
            - {name: secret, mountPath: /secrets}
      volumes:
        - {name: data, emptyDir: {}}
        - {name: tmp, emptyDir: {medium: Memory}}
        - {name: run, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
        - {name: config, configMap: {name: db}}
        - {name: secret, secret: {secretName: db}}
"#;

    fn engine(limits: Limits) -> Engine {
        Engine {
            kind: EngineKind::Podman,
            program: Utf8PathBuf::from("/bin/podman"),
            environment: BTreeMap::new(),
            version: "4.3.1".to_owned(),
            platform: Platform {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
            },
            limits,
            storage: None,
            notes: Vec::new(),
        }
    }

    /// Plans the sample with these words replaced.
    fn plan(limits: Limits, from: &str, to: &str) -> anyhow::Result<Vec<Pod<Expected>>> {
        let folder = tempfile::tempdir()?;
        plan_in(folder.path(), limits, from, to)
    }

    fn plan_in(
        folder: &Path,
        limits: Limits,
        from: &str,
        to: &str,
    ) -> anyhow::Result<Vec<Pod<Expected>>> {
        let directory = Utf8PathBuf::try_from(folder.to_owned())?;
        fs::create_dir_all(directory.join("mounts/db"))?;
        let images = ImageNames {
            own: ["db".to_owned()].into(),
            ..ImageNames::default()
        };
        let manifests = Manifests::parse("db", &SAMPLE.replace(from, to), &images)?;
        let around = Surroundings {
            engine: &engine(limits),
            run: "run",
            network: "net",
            labels: &["l=1".to_owned()],
            secrets: &Secrets {
                directory: directory.clone(),
            },
            config: &Utf8PathBuf::from("/config-of-run"),
            memory_volumes: true,
        };
        pods(
            &around,
            &manifests,
            &References::planned_third_party(&["db".to_owned()]),
        )
    }

    #[track_caller]
    fn has(planned: &Planned<Expected>, arguments: &[&str]) {
        for argument in arguments {
            let found = planned.arguments().iter().any(|one| one == argument);
            assert!(found, "no {argument} in {:#?}", planned.arguments());
        }
    }

    #[track_caller]
    fn has_none_like(planned: &Planned<Expected>, start: &str) {
        let arguments = planned.arguments();
        let found = arguments.iter().find(|one| one.starts_with(start));
        assert_eq!(found, None);
    }

    const ALL: Limits = Limits {
        memory: true,
        cpus: true,
        pids: true,
    };

    #[test]
    fn what_outlives_a_container_is_a_volume() {
        let pods = plan(ALL, "", "").unwrap();
        let volume = |name: &str, directory: Option<&str>| PlannedVolume {
            name: name.to_owned(),
            directory: directory.map(Utf8PathBuf::from),
            owner: None,
        };
        assert_eq!(
            pods[1].volumes,
            [
                volume("run-db-1-data", None),
                // In memory, and shared by two containers.
                volume("run-db-1-tmp", Some("/dev/shm/run-db-1-tmp")),
            ]
        );
    }

    #[test]
    fn a_pod_gets_what_its_manifest_says() {
        let pods = plan(ALL, "", "").unwrap();
        let names: Vec<&str> = pods.iter().map(|pod| pod.main.name.as_str()).collect();
        assert_eq!(names, ["run-db-0", "run-db-1"]);
        let main = &pods[1].main;
        has(
            main,
            &[
                "--name=run-db-1",
                "--hostname=db-1",
                "--restart=always",
                "--pull=never",
            ],
        );
        has(
            main,
            &[
                "--network=net",
                "--dns-option=timeout:1",
                "--network-alias=db",
                "--label=l=1",
                "--env=A=b c",
            ],
        );
        has(
            main,
            &["--publish=127.0.0.1::5432", "--publish=127.0.0.1::9"],
        );
        has(
            main,
            &["--user=999:998", "--group-add=997", "--stop-timeout=5"],
        );
        has(
            main,
            &["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"],
        );
        has(
            main,
            &[
                "--security-opt=no-new-privileges",
                "--memory=1048576b",
                "--cpus=0.500",
            ],
        );
        has(
            main,
            &[
                "--volume=run-db-1-data:/data:rw",
                "--volume=run-db-1-tmp:/tmp:rw",
            ],
        );
        has(
            main,
            &["--mount=type=tmpfs,destination=/run,tmpfs-mode=1777,tmpfs-size=1048576"],
        );
        has(main, &["--volume=/config-of-run/db:/config:ro,z"]);
        assert!(
            main.arguments()
                .ends_with(&["<db>", "-D", "/data"].map(str::to_owned))
        );
        assert_eq!(main.readiness, Readiness::Tcp { port: 5432 });
        assert_eq!(
            main.ports,
            [("9".to_owned(), 9), ("db".to_owned(), 5432)].into()
        );
        assert_eq!(main.config_maps, ["db"]);
    }

    #[test]
    fn an_init_container_runs_once_and_is_not_reached() {
        let pods = plan(ALL, "", "").unwrap();
        let init = &pods[0].init[0];
        assert_eq!(init.name, "run-db-0-init-init");
        has(init, &["--volume=run-db-0-data:/data:rw,U"]);
        has(init, &["--entrypoint=/init", "--network=net"]);
        assert!(
            init.arguments()
                .ends_with(&["<db>", "--now"].map(str::to_owned))
        );
        for start in ["--restart", "--publish", "--network-alias"] {
            has_none_like(init, start);
        }
    }

    #[test]
    fn the_plan_of_a_pod_is_all_that_it_was_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let digest = |from: &str, to: &str| {
            let pods = plan_in(folder.path(), ALL, from, to).unwrap();
            let pod = &pods[0];
            assert_eq!(pod.init[0].plan(), pod.main.plan());
            has(
                &pod.main,
                &[&format!("--label=phase-zero.plan={}", pod.main.plan())],
            );
            assert_ne!(pods[1].main.plan(), pod.main.plan());
            pod.main.plan().to_owned()
        };
        assert_eq!(digest("", ""), digest("", ""));
        let edits = [
            ("conf: \"a\"", "conf: \"b\""),
            ("value: \"b c\"", "value: \"b d\""),
            ("command: [/init, --now]", "command: [/init, --later]"),
            ("tcpSocket: {port: db}", "tcpSocket: {port: 9}"),
            ("memory: 1Mi", "memory: 2Mi"),
        ];
        let others: BTreeSet<String> = edits.iter().map(|(from, to)| digest(from, to)).collect();
        assert_eq!(others.len(), edits.len());
        assert!(!others.contains(&digest("", "")));
    }

    #[test]
    fn limits_that_the_host_refuses_are_not_asked_for() {
        let pods = plan(Limits::default(), "", "").unwrap();
        for start in ["--memory", "--cpus", "--pids-limit"] {
            has_none_like(&pods[0].main, start);
        }
    }

    #[track_caller]
    fn refused(from: &str, to: &str, words: &str) {
        let text = format!("{:#}", plan(ALL, from, to).unwrap_err());
        assert!(text.contains(words), "no `{words}` in: {text}");
    }

    #[test]
    fn a_token_for_an_api_server_is_not_mounted() {
        let options = |from: &str, to: &str| {
            let mut pods = plan(ALL, from, to).unwrap();
            pods.remove(0).main.options
        };
        let with = options("secret: {secretName: db}", "projected: {sources: []}");
        let without = options("            - {name: secret, mountPath: /secrets}\n", "");
        assert_eq!(with, without);
    }

    #[test]
    fn what_is_not_in_the_run_is_refused() {
        refused("secretName: db", "secretName: other", "mounts Secret other");
        refused(
            "configMap: {name: db}",
            "configMap: {name: other}",
            "mounts ConfigMap other",
        );
    }
}

//! What kind is told of a cluster: its one node, and the ports of it that are published. Pure.

use serde_json::{Value, json};

use super::remote::REGISTRIES;
use crate::cluster::kubernetes::documents::PodSubnet;

/// The first port of a node that a Service of type NodePort may have.
pub(crate) const NODE_PORT_FIRST: u16 = 30_000;

/// The addresses of Services; kind's own choice, written down.
pub(super) const SERVICE_SUBNET: &str = "10.96.0.0/16";
/// The addresses of pods.
const POD_SUBNET: &str = "10.244.0.0/16";

/// The same for who calls from so many nodes: each has the first of its own.
pub(super) fn pod_subnet(nodes_count: u8) -> PodSubnet {
    let of_node = |number: u8| format!("10.244.{number}.1/32");
    PodSubnet {
        all: POD_SUBNET,
        nodes: (0..nodes_count).map(of_node).collect(),
    }
}

/// What of a cluster differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// With that of the control plane, which runs pods where it is alone.
    pub(super) nodes_count: u8,
    /// Published on 127.0.0.1.
    pub(super) ports_count: u16,
}

/// A cluster whose first node publishes so many ports on 127.0.0.1, from [`NODE_PORT_FIRST`] on. The
/// engine picks the ports of the host itself, so nothing is chosen that another takes in between.
pub(super) fn config(shape: Shape) -> Value {
    let mappings: Vec<Value> = (NODE_PORT_FIRST..NODE_PORT_FIRST + shape.ports_count)
        .map(|port| json!({"containerPort": port, "hostPort": -1, "listenAddress": "127.0.0.1", "protocol": "TCP"}))
        .collect();
    // A database that is killed in test after test is started again without ever longer pauses.
    let kubelet = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    });
    // Who waits for a service that has just become ready waits for this.
    let proxy = json!({
        "kind": "KubeProxyConfiguration",
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "iptables": {"minSyncPeriod": "50ms"},
    });
    let mut nodes = vec![json!({"role": "control-plane", "extraPortMappings": mappings})];
    nodes.extend((1..shape.nodes_count).map(|_| json!({"role": "worker"})));
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {
            "apiServerAddress": "127.0.0.1", "apiServerPort": -1, "podSubnet": POD_SUBNET,
            "serviceSubnet": SERVICE_SUBNET,
        },
        "kubeadmConfigPatches": [kubelet.to_string(), proxy.to_string()],
        "nodes": nodes,
    })
}

/// The same, with a runtime that looks up in its own folder where a registry is: not all do by
/// themselves.
pub(super) fn pulling(mut config: Value) -> Value {
    let patch = format!(
        "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"{REGISTRIES}\"\n"
    );
    config["containerdConfigPatches"] = json!([patch]);
    config
}

#[cfg(test)]
mod tests {
    use super::{Shape, config, pulling};

    const ONE: Shape = Shape {
        nodes_count: 1,
        ports_count: 1,
    };

    #[test]
    fn a_node_that_pulls_is_told_where_registries_are() {
        let told = pulling(config(ONE));
        let patch = told["containerdConfigPatches"][0].as_str().unwrap();
        assert!(
            patch.contains("config_path = \"/etc/containerd/certs.d\""),
            "{patch}"
        );
        assert_eq!(told["nodes"], config(ONE)["nodes"]);
    }

    #[test]
    fn every_port_is_picked_by_the_engine_and_on_this_machine_alone() {
        let config = config(Shape {
            nodes_count: 2,
            ports_count: 3,
        });
        assert_eq!(config["nodes"][1], serde_json::json!({"role": "worker"}));
        let mappings = config["nodes"][0]["extraPortMappings"].as_array().unwrap();
        assert_eq!(mappings.len(), 3);
        assert_eq!(mappings[2]["containerPort"], 30_002);
        for mapping in mappings {
            assert_eq!(mapping["hostPort"], -1);
            assert_eq!(mapping["listenAddress"], "127.0.0.1");
        }
        assert_eq!(config["networking"]["apiServerAddress"], "127.0.0.1");
    }
}

//! Reads `deploy/*.yaml`, plain Kubernetes manifests, and puts image references in, in memory.
//! `image: datastorage` is a logical name: a tag on one of our images is refused.

//! What the compiler refuses. Each of these differs from a twin above it in one place; the twin
//! compiles, and so carries the proof that the reason is this place.
//!
//! A load takes what was built, not what was only named.
//!
//! ```
//! # use xtask::{cluster::Cluster, pipeline::{Images, build::Built, load::load, tag::Tagged}};
//! fn phase_3(images: Images<Built>, cluster: &Cluster) { let _ = load(images, cluster); }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::{cluster::Cluster, pipeline::{Images, build::Built, load::load, tag::Tagged}};
//! fn phase_3(images: Images<Tagged>, cluster: &Cluster) { let _ = load(images, cluster); }
//! ```
//!
//! A push takes what was built, not what was only named; and there is no other name to push it to.
//!
//! ```
//! # use xtask::pipeline::{Images, build::Built, push::push, tag::{Repository, Tagged}};
//! fn push_it(images: Images<Built>, repository: &Repository) { let _ = push(images, repository); }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::pipeline::{Images, build::Built, push::push, tag::{Repository, Tagged}};
//! fn push_it(images: Images<Tagged>, repository: &Repository) { let _ = push(images, repository); }
//! ```
//!
//! An image that another job built is found, and not claimed.
//!
//! ```
//! # use xtask::pipeline::build::{Built, prebuilt::Offer};
//! fn claim(image: &Built) -> Option<&Offer> { image.fetched() }
//! ```
//!
//! ```compile_fail,E0451
//! # use xtask::pipeline::build::{Built, prebuilt::Offer};
//! fn claim(image: &Offer) -> Offer { Offer { differences: Vec::new(), ..todo!() } }
//! ```
//!
//! A deployment takes what was seen in the cluster, not what was only built.
//!
//! ```
//! # use xtask::{cluster::Cluster, pipeline::{Images, build::Built, deploy::deploy, load::Loaded}};
//! # use xtask::{manifest::Manifests, run::Run, secrets::Secrets, source::workspace::Workspace};
//! fn phase_4(workspace: &Workspace, run: &Run, secrets: &Secrets, manifests: &Manifests, images: Images<Loaded>, cluster: &mut Cluster) {
//!     let _ = deploy(workspace, run, secrets, manifests, images, cluster, std::time::Duration::from_secs(60));
//! }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::{cluster::Cluster, pipeline::{Images, build::Built, deploy::deploy, load::Loaded}};
//! # use xtask::{manifest::Manifests, run::Run, secrets::Secrets, source::workspace::Workspace};
//! fn phase_4(workspace: &Workspace, run: &Run, secrets: &Secrets, manifests: &Manifests, images: Images<Built>, cluster: &mut Cluster) {
//!     let _ = deploy(workspace, run, secrets, manifests, images, cluster, std::time::Duration::from_secs(60));
//! }
//! ```
//!
//! A proof is of a deployment, not of images.
//!
//! ```
//! # use xtask::{cluster::Cluster, pipeline::{Images, attest::attest, deploy::Deployment, load::Loaded}};
//! fn phase_5(deployment: Deployment, cluster: &Cluster) { let _ = attest(deployment, cluster, &mut Vec::new()); }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::{cluster::Cluster, pipeline::{Images, attest::attest, deploy::Deployment, load::Loaded}};
//! fn phase_5(deployment: Images<Loaded>, cluster: &Cluster) { let _ = attest(deployment, cluster, &mut Vec::new()); }
//! ```
//!
//! Tests run against what was proved, not against what was only deployed.
//!
//! ```
//! # use xtask::{pipeline::{attest::Attested, build::TestProgram, deploy::Deployment, test::test}, run::Run};
//! fn phase_6(run: &Run, proved: &Attested, program: &TestProgram) {
//!     let _ = test(run, proved, program, &[], std::time::Duration::from_secs(60));
//! }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::{pipeline::{attest::Attested, build::TestProgram, deploy::Deployment, test::test}, run::Run};
//! fn phase_6(run: &Run, proved: &Deployment, program: &TestProgram) {
//!     let _ = test(run, proved, program, &[], std::time::Duration::from_secs(60));
//! }
//! ```
//!
//! A build takes all images of a run and gives them all back; no phase can be left out.
//!
//! ```
//! # use xtask::{pipeline::{Images, build::{Built, Options, build_images}, load::Loaded, tag::Tagged}, source::workspace::Workspace};
//! fn phase_1(workspace: &Workspace, images: Images<Tagged>, options: &Options<'_>) -> anyhow::Result<Images<Built>> {
//!     build_images(workspace, images, options)
//! }
//! ```
//!
//! ```compile_fail,E0308
//! # use xtask::{pipeline::{Images, build::{Built, Options, build_images}, load::Loaded, tag::Tagged}, source::workspace::Workspace};
//! fn phase_1(workspace: &Workspace, images: Images<Tagged>, options: &Options<'_>) -> anyhow::Result<Images<Loaded>> {
//!     build_images(workspace, images, options)
//! }
//! ```
//!
//! Images are looked at one by one, and never put together from fewer.
//!
//! ```
//! # use xtask::pipeline::{Images, tag::Tagged};
//! fn some(images: &Images<Tagged>) { let _: Vec<_> = images.iter().take(1).collect(); }
//! ```
//!
//! ```compile_fail,E0277
//! # use xtask::pipeline::{Images, tag::Tagged};
//! fn some(images: &Images<Tagged>) { let _: Images<Tagged> = images.iter().take(1).collect(); }
//! ```
//!
//! The only way from stage to stage is a phase.
//!
//! ```
//! # use xtask::pipeline::{Images, tag::Tagged};
//! fn skip(images: Images<Tagged>) { let _ = images.iter(); }
//! ```
//!
//! ```compile_fail,E0624
//! # use xtask::pipeline::{Images, tag::Tagged};
//! fn skip(images: Images<Tagged>) { let _ = images.advance(|_, image| Ok(image)); }
//! ```
//!
//! An image reference can be shown, and never be made from a text.
//!
//! ```
//! # use xtask::pipeline::tag::ImageRef;
//! fn other_way(reference: ImageRef) { let _: String = reference.to_string(); }
//! ```
//!
//! ```compile_fail,E0277
//! # use xtask::pipeline::tag::ImageRef;
//! fn other_way(reference: ImageRef) { let _: ImageRef = reference.to_string().into(); }
//! ```
//!
//! Nor by parsing one.
//!
//! ```
//! # use xtask::pipeline::tag::ImageRef;
//! fn parse(text: &str) { let _ = text.parse::<u64>(); }
//! ```
//!
//! ```compile_fail,E0277
//! # use xtask::pipeline::tag::ImageRef;
//! fn parse(text: &str) { let _ = text.parse::<ImageRef>(); }
//! ```
//!
//! What was observed can be read, and not be claimed.
//!
//! ```
//! # use xtask::pipeline::build::{Built, Origin};
//! fn claim(image: &mut Built) { let _ = image.origin(); }
//! ```
//!
//! ```compile_fail,E0616
//! # use xtask::pipeline::build::{Built, Origin};
//! fn claim(image: &mut Built) { image.origin = Origin::Built; }
//! ```

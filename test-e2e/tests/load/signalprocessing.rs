//! The load of signalprocessing: pending requests, each for a Deployment of its own. One has ended
//! when it is in Analyzing, classified.

use common::api::{NewRemediationRequest, Target};
use common::client::{ClientError, DataStorage};
use common::transitions::RequestPhase;
use test_e2e::load::work::{self, Done, End, Work};
use test_e2e::{Scenario, requests, scenario};

#[test]
fn every_pending_request_is_classified_once() {
    let scenario = scenario!(Exclusive, "signalprocessing");
    work::run(&scenario, |_| Classifying::of(&scenario));
}

/// Requests made as gateway makes them.
struct Classifying {
    gateway: DataStorage,
}

impl Classifying {
    #[track_caller]
    fn of(scenario: &Scenario) -> Self {
        let gateway = scenario.api("datastorage", "gateway").datastorage();
        Self {
            gateway: gateway.expect("DataStorage"),
        }
    }
}

impl Work for Classifying {
    const SERVICE: &'static str = "signalprocessing";
    const RATE: u32 = 50;
    const EVENTS: &'static [&'static str] = &[
        "datastorage.remediation_request.created",
        "datastorage.remediation_request.transitioned",
        "signal.enriched",
        "classification.decided",
        "datastorage.remediation_request.transitioned",
    ];
    const EVENTS_BEFORE: usize = 0;
    const END: End = End::Request(RequestPhase::Analyzing);
    type Ready = NewRemediationRequest;

    async fn prepare(&self, name: &str) -> Result<Self::Ready, ClientError> {
        Ok(requests::new_request(&Target {
            name: name.to_owned(),
            ..requests::target()
        }))
    }

    async fn hand_over(&self, ready: &Self::Ready) -> Result<(), ClientError> {
        self.gateway.create_request(ready).await.map(drop)
    }

    fn check(&self, done: &[Done]) {
        for Done { request, .. } in done {
            let classification = request.classification.as_ref();
            let classification = classification.expect("a classification");
            let found = (&*classification.environment, &*classification.priority);
            assert_eq!(found, ("production", "P0"), "{request:#?}");
            assert_eq!(request.occurrence_count, 1, "{request:#?}");
        }
    }
}

//! Faults of a cluster with several brokers, on librdkafka's mock cluster: leader and coordinator changes, broker outages,
//! and errors while joining, committing and producing.

use std::fmt;

use fastrand::Rng;
use rdkafka::{
    ClientConfig,
    mocking::{MockCluster, MockCoordinator},
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::{
    feed::PARTITIONS,
    harness::{DEAD_LETTERS, GROUP, TOPIC},
    number,
    storm::Storm,
};

const BROKERS: i32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LeaderErrors,
    LeaderMoves,
    BrokerDown,
    CoordinatorMoves,
    GroupErrors,
    CommitErrors,
    ProduceErrors,
    Disconnects,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::LeaderErrors,
        Self::LeaderMoves,
        Self::BrokerDown,
        Self::CoordinatorMoves,
        Self::GroupErrors,
        Self::CommitErrors,
        Self::ProduceErrors,
        Self::Disconnects,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LeaderErrors => "leader errors in fetch responses",
            Self::LeaderMoves => "leader moves",
            Self::BrokerDown => "broker down",
            Self::CoordinatorMoves => "coordinator moves",
            Self::GroupErrors => "join and heartbeat errors",
            Self::CommitErrors => "offset commit errors",
            Self::ProduceErrors => "errors writing dead letters",
            Self::Disconnects => "connections lost during fetches",
        })
    }
}

fn plan(seed: u64, faults: usize) -> Vec<(Kind, i32)> {
    let mut random = Rng::with_seed(seed ^ 0x0c10_57e2);
    let mut first = Kind::ALL;
    random.shuffle(&mut first);
    (0..faults)
        .map(|number| {
            let drawn = first.get(number).copied();
            (
                drawn.unwrap_or_else(|| Kind::ALL[random.usize(..Kind::ALL.len())]),
                random.i32(0..1 << 20),
            )
        })
        .collect()
}

fn inject(storm: &mut Storm, mock: &MockCluster<'_, DefaultProducerContext>, kind: Kind, which: i32) {
    use RDKafkaRespErr as E;
    let broker = 1 + which % BROKERS;
    match kind {
        Kind::LeaderErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                E::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
            ];
            mock.request_errors(RDKafkaApiKey::Fetch, &errors);
        }
        Kind::LeaderMoves => {
            for partition in 0..PARTITIONS {
                mock.partition_leader(TOPIC, partition, Some(1 + (which + partition) % BROKERS))
                    .unwrap();
            }
        }
        Kind::BrokerDown => {
            // As a leader alone its outage may go unnoticed: metadata no longer lists a broker that is down, and a member that
            // sees that first drops it. The coordinator is still named, so all members try to reach it.
            mock.partition_leader(TOPIC, which % PARTITIONS, Some(broker)).unwrap();
            mock.coordinator(MockCoordinator::Group(GROUP.to_owned()), broker)
                .unwrap();
            storm.feed(100);
            storm.wait("the records before the fault", Storm::is_drained);
            let errors = errors_seen(storm);
            mock.broker_down(broker).unwrap();
            storm.wait("members to notice the outage", |storm| errors_seen(storm) > errors);
            mock.broker_up(broker).unwrap();
        }
        Kind::CoordinatorMoves => mock
            .coordinator(MockCoordinator::Group(GROUP.to_owned()), broker)
            .unwrap(),
        Kind::GroupErrors => {
            let heartbeat = [
                E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
                E::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
                E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            ];
            mock.request_errors(RDKafkaApiKey::Heartbeat, &heartbeat[which as usize % 4..][..1]);
            let join = [
                E::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
            ];
            mock.request_errors(RDKafkaApiKey::JoinGroup, &join[..1]);
            mock.request_errors(RDKafkaApiKey::SyncGroup, &join[1..]);
        }
        Kind::CommitErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                E::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
            ];
            mock.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
        }
        Kind::ProduceErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            ];
            mock.request_errors(RDKafkaApiKey::Produce, &errors);
            storm.feed_poison(10);
        }
        Kind::Disconnects => {
            mock.request_errors(RDKafkaApiKey::Fetch, &[E::RD_KAFKA_RESP_ERR__TRANSPORT; 3]);
        }
    }
}

/// Number of broken broker connections in the members' logs.
fn errors_seen(storm: &Storm) -> usize {
    let counts = storm
        .members
        .iter()
        .map(|member| member.log().matches("facility=\"FAIL\"").count());
    counts.sum()
}

/// A tenth as many faults as in the storm, and at least one of each kind.
#[test]
fn leader_errors_and_broker_outages_change_nothing() {
    let seed = number("SEED", 20_260_301);
    let faults = (number("FAULTS", 32_usize) / 10).max(Kind::ALL.len());
    let plan = plan(seed, faults);
    assert_eq!(plan, self::plan(seed, faults), "the same seed makes the same plan");
    println!("mock cluster: SEED={seed}");
    for kind in Kind::ALL {
        println!(
            "  {kind:34} {:5}",
            plan.iter().filter(|(planned, _)| *planned == kind).count()
        );
    }

    let mock = MockCluster::new(BROKERS).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, BROKERS).unwrap();
    mock.create_topic(DEAD_LETTERS, 1, BROKERS).unwrap();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("reconnect.backoff.max.ms", "200");
    let mut storm = Storm::on(seed, config);
    storm.begin();
    for (kind, which) in plan {
        storm.feed(200);
        inject(&mut storm, &mock, kind, which);
        storm.feed(100);
        storm.wait("the records after the fault", Storm::is_drained);
    }
    println!("{}", storm.drain_and_check());
}

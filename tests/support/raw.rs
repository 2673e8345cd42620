//! Record batches written byte by byte, for input that no client library would send. The layouts are those of
//! <https://kafka.apache.org/documentation/#recordbatch> and of version 3 of Kafka's Produce request.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

/// A record without a key.
#[derive(Debug, Clone, Default)]
pub struct RawRecord<'a> {
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// A batch of one record; with `damaged`, its checksum is wrong.
pub fn batch(record: &RawRecord<'_>, damaged: bool) -> Vec<u8> {
    let mut body = vec![0]; // attributes
    varint(&mut body, 0); // timestamp delta
    varint(&mut body, 0); // offset delta
    bytes(&mut body, None);
    bytes(&mut body, record.value);
    varint(&mut body, i64::try_from(record.headers.len()).unwrap());
    for (name, value) in &record.headers {
        bytes(&mut body, Some(name));
        bytes(&mut body, *value);
    }
    let mut checked = Vec::new();
    checked.extend(0_i16.to_be_bytes()); // attributes: no codec, the producer's time
    checked.extend(0_i32.to_be_bytes()); // last offset delta
    checked.extend(record.timestamp.to_be_bytes());
    checked.extend(record.timestamp.to_be_bytes());
    checked.extend((-1_i64).to_be_bytes()); // producer id
    checked.extend((-1_i16).to_be_bytes()); // producer epoch
    checked.extend((-1_i32).to_be_bytes()); // first sequence
    checked.extend(1_i32.to_be_bytes());
    varint(&mut checked, i64::try_from(body.len()).unwrap());
    checked.extend(body);
    let crc = crc32c(&checked) ^ u32::from(damaged);
    let mut batch = 0_i64.to_be_bytes().to_vec(); // base offset
    batch.extend(i32::try_from(checked.len() + 9).unwrap().to_be_bytes());
    batch.extend((-1_i32).to_be_bytes()); // leader epoch
    batch.push(2); // magic
    batch.extend(crc.to_be_bytes());
    batch.extend(checked);
    batch
}

/// Writes a batch to a partition, and panics if the broker refuses it.
pub fn produce(broker: &str, topic: &str, partition: i32, batch: &[u8]) {
    let name = |out: &mut Vec<u8>, name: &str| {
        out.extend(i16::try_from(name.len()).unwrap().to_be_bytes());
        out.extend(name.as_bytes());
    };
    let mut request = Vec::new();
    request.extend(0_i16.to_be_bytes()); // Produce
    request.extend(3_i16.to_be_bytes()); // version
    request.extend(1_i32.to_be_bytes()); // correlation id
    name(&mut request, "raw");
    request.extend((-1_i16).to_be_bytes()); // no transaction
    request.extend((-1_i16).to_be_bytes()); // acks: all
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    name(&mut request, topic);
    request.extend(1_i32.to_be_bytes());
    request.extend(partition.to_be_bytes());
    request.extend(i32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    let mut socket = TcpStream::connect(broker).unwrap();
    socket
        .write_all(&i32::try_from(request.len()).unwrap().to_be_bytes())
        .unwrap();
    socket.write_all(&request).unwrap();
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    socket.read_exact(&mut answer).unwrap();
    // Correlation id, topics, name, partitions, partition, error.
    let error = 4 + 4 + 2 + topic.len() + 4 + 4;
    let error = i16::from_be_bytes([answer[error], answer[error + 1]]);
    assert_eq!(error, 0, "the broker refuses the batch");
}

fn bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, i64::try_from(bytes.len()).unwrap());
            out.extend(bytes);
        }
    }
}

/// A zigzag varint.
fn varint(out: &mut Vec<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap());
}

/// The Castagnoli polynomial, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

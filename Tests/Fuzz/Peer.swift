// modules: Geometry Codecs SystemPackage LinuxSystem Transport
import Codecs
@testable import Transport

/// Frame headers, the channel's hello, the opening of a service, and what names a peer on the command line.
func fuzz(_ bytes: [UInt8]) {
    if bytes.count >= FrameHeader.byteCount {
        var head = Array(bytes[..<FrameHeader.byteCount])
        let covered = FrameHeader.byteCount - 4
        let sum = head[..<covered].withUnsafeBytes { crc32c(0, $0) }
        for index in 0..<4 { head[covered + index] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * index)) }
        if let frame = try? FrameHeader(parsing: head) {
            var again: [UInt8] = []
            frame.append(to: &again)
            if again != head { finding("a frame header with two forms") }
        }
    }
    if let hello = try? Hello(parsing: Message(kind: ChannelKind.hello, payload: bytes)) { _ = hello.message }
    _ = try? ServiceRequest(parsing: Message(kind: ServiceRequest.kind, payload: bytes))
    _ = try? ServiceFailure(parsing: Message(kind: ServiceFailure.kind, payload: bytes))
    let text = String(decoding: bytes.prefix(4096), as: UTF8.self)
    _ = try? SSHTarget(parsing: text)
    _ = try? SSHTarget(parsingWithFolder: text)
}

let seeds: [[UInt8]] = {
    let request = ServiceRequest(service: "store", path: "/a", isReadOnly: true).message
    var frame: [UInt8] = []
    FrameHeader(of: request).append(to: &frame)
    return [
        frame, request.payload, ServiceFailure(code: "c", text: "t").message(id: 1).payload,
        Hello(window: 1, silenceMilliseconds: 1, features: 0, product: "p").message.payload,
        Array("user@[::1]:22:/path".utf8), Array("ssh://user@host:22/path".utf8),
    ]
}()

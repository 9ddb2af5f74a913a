@testable import NBDServer
import TestSupport
import Testing

@Suite struct ParsingTests {
    private let name = RawClient.number(UInt32(4)) + Array("disk".utf8)
    private let query = RawClient.number(UInt32(15)) + Array("base:allocation".utf8)

    @Test func `an option that is cut off anywhere, or goes on, is refused`() throws {
        let info = name + [0, 2, 0, 1, 0, 3]
        let parsed = try OptionPayload.parseInfo(info)
        #expect(parsed.name == Array("disk".utf8) && parsed.wanted == [1, 3])
        let contexts = name + RawClient.number(UInt32(2)) + query + RawClient.number(UInt32(0))
        #expect(try OptionPayload.parseContexts(contexts, isList: false).hasAllocation)
        for count in info.indices {
            #expect(throws: (any Error).self) { try OptionPayload.parseInfo(Array(info[..<count])) }
        }
        for count in contexts.indices {
            #expect(throws: (any Error).self) {
                try OptionPayload.parseContexts(Array(contexts[..<count]), isList: false)
            }
        }
        #expect(throws: (any Error).self) { try OptionPayload.parseInfo(info + [0]) }
        #expect(throws: (any Error).self) { try OptionPayload.parseContexts(contexts + [0], isList: true) }
    }

    @Test func `only a list has contexts without a name`() throws {
        let none = name + RawClient.number(UInt32(0))
        let base = name + RawClient.number(UInt32(1)) + RawClient.number(UInt32(5)) + Array("base:".utf8)
        #expect(try OptionPayload.parseContexts(none, isList: true).hasAllocation)
        #expect(try OptionPayload.parseContexts(base, isList: true).hasAllocation)
        #expect(try !OptionPayload.parseContexts(none, isList: false).hasAllocation)
        #expect(try !OptionPayload.parseContexts(base, isList: false).hasAllocation)
    }

    @Test func `what was parsed of a request says no more than its bytes`() {
        var random = SeededRandom("request headers")
        let session = Session(
            byteCount: 1 << 20, isReadOnly: false, hasStructuredReplies: true, hasAllocationContext: true)
        for _ in 0..<10_000 {
            var bytes = RawClient.number(UInt32(0x2560_9513)) + random.bytes(24)
            if random.oneIn(2) {
                bytes.replaceSubrange(4..<8, with: [0, UInt8(random.below(32)), 0, UInt8(random.below(9))])
            }
            if random.oneIn(2) { bytes.replaceSubrange(16..<22, with: [0, 0, 0, 0, 0, 0]) }
            if random.oneIn(2) { bytes.replaceSubrange(24..<26, with: [0, 0]) }
            guard let request = bytes.withUnsafeBytes({ Request($0) }) else {
                Issue.record("no request")
                return
            }
            guard request.refusal(in: session) == nil, request.type != CommandType.flush else { continue }
            #expect(request.count > 0 && request.offset + UInt64(request.count) <= session.byteCount)
        }
        #expect([UInt8](repeating: 0, count: 28).withUnsafeBytes { Request($0) } == nil)
    }
}

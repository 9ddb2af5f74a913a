// modules: Geometry Codecs SystemPackage LinuxSystem BlockIO ChunkTree ImageFormat ChangeTracking DeviceControl
// modules: Transport DiskImage BackupStore Backup
@testable import Backup
@testable import BackupStore
import Codecs
@testable import Transport

/// The payloads of the service `store`, as its two sides read them. The first byte chooses.
func fuzz(_ bytes: [UInt8]) {
    guard let choice = bytes.first else { return }
    let rest = Array(bytes[1...])
    var reader = PayloadReader(rest)
    switch choice % 6 {
    case 0:
        guard let ids = try? reader.digests(), reader.remaining == 0 else { return }
        var writer = PayloadWriter()
        writer.put(digests: ids)
        if writer.bytes != rest { finding("ids with two forms") }
    case 1:
        guard let pieces = try? reader.pieces() else { return }
        if pieces.reduce(0, { $0 + $1.count }) > StoreLimits.readMax { finding("a read over its limit") }
        if pieces.count > StoreMessage.piecesMax { finding("too many pieces") }
    case 2:
        guard let place = try? reader.location(), place.isSound else { return }
        // What a reader computes with it.
        if Int(place.offset) + Int(place.length) > StoreLimits.frameMax { finding("a place beyond its frame") }
        if Int(place.storedBytes) > StoreLimits.readMax { finding("a frame over what is read at once") }
    case 3:
        guard let opening = try? StoreOpening(parsing: rest) else { return }
        if opening.info.uuid.utf8.count > 64 { finding("an identity over its limit") }
    case 4:
        guard let frame = try? PackFrame(payload: rest) else { return }
        if frame.payload != rest { finding("a frame with two forms") }
        if frame.objects.reduce(0, { $0 + UInt64($1.length) }) != UInt64(frame.plainBytes) {
            finding("a frame that does not add up")
        }
    default:
        let text = rest + Array("sum \(Digest.hash(rest))\n".utf8)
        if let damage = try? PackDamage(parsing: text), damage.frames.count > 4096 { finding("a note over its limit") }
    }
}

let seeds: [[UInt8]] = {
    var ids = PayloadWriter()
    ids.put(digests: [Digest.hash([1]), Digest.hash([2])])
    var pieces = PayloadWriter()
    pieces.put(pieces: [ObjectPiece(kind: .pack, name: "a", offset: 1, count: 2)])
    let place = Location(
        pack: Digest.hash([1]), frameOffset: 16, storedBytes: 10, plainBytes: 4096, isCompressed: true, isNode: false,
        offset: 0, length: 4096)
    var location = PayloadWriter()
    location.put(location: place)
    let opening = StoreOpening(info: StoreInfo(uuid: "u", chunkBytes: 65536), damage: "d")
    var all: [[UInt8]] = [[0] + ids.bytes, [1] + pieces.bytes, [2] + location.bytes, [3] + opening.payload]
    var directory = PackDirectory()
    directory.frames = [
        PackFrame(
            offset: 16, storedBytes: 10, plainBytes: 4096, checksum: 1, isCompressed: true, isNodes: false,
            objects: [PackFrame.Object(id: Digest.hash([3]), length: 4096)])
    ]
    all.append([4] + directory.encoded())
    all.append([5] + PackDamage(frames: [16, 99]).encoded().dropLast(69))
    return all
}()

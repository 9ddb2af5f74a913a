// modules: Geometry Codecs ImageFormat
import Geometry
import ImageFormat

/// The descriptor, and each change to a tree that was accepted.
func fuzz(_ bytes: [UInt8]) {
    let name = String(decoding: bytes.prefix(300), as: UTF8.self)
    if DiskDescriptor.isPlainName(name), name.contains("/") || name == ".." || name.isEmpty {
        finding("a name that leads out of the folder")
    }
    if DiskDescriptor.isDeltaName(name), !DiskDescriptor.isPlainName(name) { finding("a delta's name that is none") }
    guard let descriptor = try? DiskDescriptor(parsing: bytes) else { return }
    check(descriptor)
    let files = Set(descriptor.images.map { PathKey($0.file) })
    if files.count != descriptor.images.count { finding("two images in one file") }
    if descriptor.images.contains(where: { $0.file.utf8.contains { $0 < 32 } }) { finding("a name of two lines") }
    let fresh = GUID("{33333333-1111-1111-1111-111111111111}") ?? .backup
    for state in descriptor.shots.prefix(8).map(\.guid) {
        guard (try? descriptor.chain(to: state))?.isEmpty == false else { finding("a state without a chain") }
        var changed = descriptor
        if (try? changed.mergeIntoParent(state)) != nil { check(changed) }
        changed = descriptor
        if (try? changed.removeLeaf(state)) != nil { check(changed) }
        changed = descriptor
        if (try? changed.switchTop(to: state, newTopFile: changed.newDeltaFile(fresh))) != nil { check(changed) }
    }
    var changed = descriptor
    if (try? changed.addSnapshot(fresh, newTopFile: changed.newDeltaFile(fresh))) != nil { check(changed) }
    changed.setSectorCount(1)
    check(changed)
}

private func check(_ descriptor: DiskDescriptor) {
    guard let again = try? DiskDescriptor(parsing: descriptor.encode()) else {
        finding("a tree that is written and refused")
    }
    if again != descriptor { finding("a tree that is written and read as another") }
}

let seeds: [[UInt8]] = {
    var descriptor = DiskDescriptor(
        sectorCount: 40960, cylinders: 80, heads: 16, clusterSectors: 2048, file: "root.hds")
    var all = [descriptor.encode()]
    for digit in ["1", "2", "3"] {
        guard let guid = GUID("{\(String(repeating: digit, count: 36))}") else { continue }
        try? descriptor.addSnapshot(guid, newTopFile: "root.hds.\(digit)")
        all.append(descriptor.encode())
    }
    all.append(Array("root.hds.{33333333-1111-1111-1111-111111111111}".utf8))
    all.append(Array("<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;<!-- d --><?e f?></a>".utf8))
    return all
}()

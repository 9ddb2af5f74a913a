public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Checks a disk or a bare image, and repairs it if asked to. Memory is bounded whatever its size.
///
/// A repair loses nothing that was flushed: shared clusters are copied, and only entries that lead nowhere are cleared.
/// The report tells what is left after it.
/// - Parameter willChangeStates: called with the disk's folder before a file below the top is repaired: what reads as
///   it did when it was frozen may read otherwise then, and what was derived from it is of a state that never was.
/// - Throws: `.inUse` while another process owns the disk; `.notADisk`, `.corrupt` or `.unsupported` for a header or
///   descriptor that can't be read.
public func checkDisk(
    at path: String, repair: Bool = false, in fs: any FileSystem,
    willChangeStates: (_ folder: String) throws(DiskError) -> Void = { (_) throws(DiskError) in }
) throws(DiskError) -> CheckReport {
    switch try DiskLocation.find(path, in: fs) {
    case .image(let file):
        let locks = try repair ? lockForWriting(file, in: fs) : lockForReading(file, in: fs)
        defer { withExtendedLifetime(locks) {} }
        var report = CheckReport(path: file)
        let image = try checkImage(file, name: file, guid: "", repair: repair, report: &report, in: fs) {
            () throws(DiskError) in
            if let folder = diskBelowWhoseTopLies(file, in: fs) { try willChangeStates(folder.path) }
        }
        report.images = [image]
        return report
    case .folder(let folder):
        let lock = repair ? try folder.lockOwner() : try folder.lockForReading()
        defer { withExtendedLifetime(lock) {} }
        if repair { try folder.settleServed(try folder.load()) }
        return try checkFolder(folder, repair: repair) { () throws(DiskError) in try willChangeStates(folder.path) }
    }
}

/// The disk that has this image below its top.
private func diskBelowWhoseTopLies(_ image: String, in fs: any FileSystem) -> DiskFolder? {
    guard let path = try? fs.resolve(image) else { return nil }
    let folder = DiskFolder(resolvedPath: folderPart(of: path), fs: fs)
    guard let descriptor = try? folder.load(),
        let own = descriptor.images.first(where: { folder.path(of: $0).isSame(as: path) }),
        own.guid != descriptor.top
    else { return nil }
    return folder
}

private func checkImage(
    _ path: String, name: String, guid: String, repair: Bool, report: inout CheckReport, in fs: any FileSystem,
    willRepair: () throws(DiskError) -> Void
) throws(DiskError) -> ImageCheckReport {
    let file = try withPath(path) { () throws(SystemError) in try fs.open(path, repair ? .update : .read) }
    // As the medium has it: what is repaired is made durable.
    if repair { file.dropCache() }
    let sparse = Sparseness.matters(at: path, in: fs)
    var check = try ImageCheck(path, file: file, guid: guid, name: name, checksSparseness: sparse)
    try check.run()
    // Leaks are legal, and giving them back is the engine's business.
    let reasons = check.report.counts.filter { $0.key != CheckFinding.Kind.leak.rawValue }
    guard repair, !reasons.isEmpty else { return check.report }
    try refuseOtherNames(of: path, in: fs)
    try willRepair()
    report.repaired.merge(reasons) { $0 + $1 }
    var work = ImageRepair(check)
    // An image by itself is locked by whoever repairs it; one of a disk may be read as part of a frozen state.
    let lease = guid.isEmpty ? ExclusiveLease.ofTop(path, in: fs) : try ExclusiveLease.take(path, in: fs)
    let done = try work.run(lease)
    var after = try ImageCheck(path, file: file, guid: guid, name: name, checksSparseness: sparse)
    try after.run()
    var result = after.report
    result.repairs = done
    return result
}

private func checkFolder(
    _ folder: DiskFolder, repair: Bool, willChangeStates: () throws(DiskError) -> Void
) throws(DiskError) -> CheckReport {
    var isTold = false
    let descriptor = try folder.load()
    var report = CheckReport(path: folder.path)
    for image in descriptor.images {
        let path = folder.path(of: image)
        do throws(DiskError) {
            if descriptor.kind(of: image.guid) == .raw {
                report.images.append(try checkRaw(path, image, descriptor, in: folder.fs))
            } else {
                report.images.append(
                    try checkImage(
                        path, name: image.file, guid: image.guid.description, repair: repair, report: &report,
                        in: folder.fs
                    ) { () throws(DiskError) in
                        guard image.guid != descriptor.top, !isTold else { return }
                        try willChangeStates()
                        isTold = true
                    })
            }
        } catch {
            guard [.notFound, .notADisk, .corrupt, .unsupported].contains(error.code) else { throw error }
            report.findings.append(CheckFinding(.missingImage, "snapshot \(image.guid): \(error.message)"))
        }
    }
    compare(descriptor, &report)
    if let failure = try folder.otherServed(than: descriptor) {
        report.findings.append(CheckFinding(.mismatch, failure.message))
    }
    if repair, let top = report.images.first(where: { $0.guid == descriptor.top.description }), top.version != 0,
        descriptor.sectorCount * sectorBytes != top.byteCount
    {
        try folder.updateDescriptor { (descriptor) throws(ImageError) in
            descriptor.setSectorCount(top.byteCount / sectorBytes)
        }
        report.findings.removeAll { $0.message == sizeMessage(descriptor, top) }
        report.repaired[CheckFinding.Kind.mismatch.rawValue, default: 0] += 1
    }
    try findStrays(folder, descriptor, &report)
    return report
}

private func checkRaw(
    _ path: String, _ image: DiskDescriptor.Image, _ descriptor: DiskDescriptor, in fs: any FileSystem
) throws(DiskError) -> ImageCheckReport {
    var report = ImageCheckReport(file: image.file, guid: image.guid.description)
    let size = try withPath(path) { () throws(SystemError) in try fs.open(path, .read).size() }
    report.fileBytes = size
    report.byteCount = size
    report.clusterBytes = UInt64(descriptor.clusterSectors) * sectorBytes
    if size == 0 || size % report.clusterBytes != 0 {
        report.add(.mismatch, "the raw base has \(size) bytes, which is not a multiple of the cluster")
    }
    return report
}

private func sizeMessage(_ descriptor: DiskDescriptor, _ top: ImageCheckReport) -> String {
    "the descriptor says \(descriptor.sectorCount) sectors, the top image \(top.byteCount / sectorBytes), which "
        + "counts; the descriptor is put right when the disk is attached"
}

/// The rules between the images of a disk.
private func compare(_ descriptor: DiskDescriptor, _ report: inout CheckReport) {
    let byGUID = Dictionary(report.images.map { ($0.guid, $0) }, uniquingKeysWith: { first, _ in first })
    func add(_ message: String) { report.findings.append(CheckFinding(.mismatch, message)) }
    let clusterBytes = UInt64(descriptor.clusterSectors) * sectorBytes
    for shot in descriptor.shots {
        guard let image = byGUID[shot.guid.description] else { continue }
        if image.clusterBytes != clusterBytes {
            add("\(image.file) has clusters of \(image.clusterBytes) bytes, the descriptor says \(clusterBytes)")
        }
        guard let parent = byGUID[shot.parent.description] else { continue }
        if parent.version != 0, image.version != parent.version {
            add("\(image.file) is of version \(image.version), the delta below it of version \(parent.version)")
        }
        if image.byteCount < parent.byteCount { add("\(image.file) is smaller than the delta below it") }
    }
    if let top = byGUID[descriptor.top.description], top.byteCount != descriptor.sectorCount * sectorBytes {
        var finding = CheckFinding(.mismatch, sizeMessage(descriptor, top))
        // A crash while growing, or a full host, leaves a descriptor that lags behind.
        finding.severity = descriptor.sectorCount * sectorBytes < top.byteCount ? .note : .warning
        report.findings.append(finding)
    }
}

/// Files that look like a delta or a staging file of this disk and are named by nothing.
private func findStrays(_ folder: DiskFolder, _ descriptor: DiskDescriptor, _ report: inout CheckReport)
    throws(DiskError)
{
    let names = try withPath(folder.path) { () throws(SystemError) in try folder.fs.list(folder.path) }
    let known = descriptor.images.map { folder.path(of: $0) }
    for name in names where !known.hasSame(as: folder.path(ofFile: name)) {
        let isDelta = DiskDescriptor.isDeltaName(name)
        // With a name of somebody's making only what can be printed is shown.
        let isStaging = name.begins(with: DiskDescriptor.fileName + ".tmp") && DiskDescriptor.isPlainName(name + "~")
        if isDelta || isStaging {
            report.findings.append(
                CheckFinding(
                    .strayFile, "\(name) is not part of the disk; it was left by something that was interrupted"))
        }
    }
}
